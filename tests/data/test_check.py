"""`tfgpt data check` names every kind of damage by file and offset; `show` prints what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.conftest import run
from tfgpt.cli import main
from tfgpt.data import check, ledger, records, show
from tfgpt.errors import UserError


@pytest.fixture
def data(texts, tmp_path):
    run(texts, tmp_path / "out", shard_bytes=9000)
    return tmp_path / "out"


def offsets(path) -> list[int]:
    return np.load(f"{path}.index.npy")[:, 0].tolist()


def faults(folder) -> list[str]:
    return [str(f) for f in check.check(str(folder)).faults]


def test_sound_data_has_no_fault(data):
    report = check.check(str(data))
    known = ledger.read(data)
    assert report.faults == []
    assert report.records == sum(known.totals(s)["records"] for s in known.splits)
    assert report.tokens == sum(known.totals(s)["tokens"] for s in known.splits)


@pytest.mark.parametrize("record", [0, 2])
def test_a_flipped_bit_is_named_by_file_and_offset(data, record):
    path = data / "text_1.tfrecords"
    at = offsets(path)[record]
    raw = bytearray(path.read_bytes())
    raw[at + 60] ^= 1
    path.write_bytes(raw)
    assert faults(data) == [f"text_1.tfrecords, byte {at}: record data does not match its checksum"]


def test_truncation_inside_and_between_records(data):
    path = data / "text_0.tfrecords"
    whole, last = path.read_bytes(), offsets(path)[-1]
    path.write_bytes(whole[:-5])
    assert faults(data)[0].startswith(f"text_0.tfrecords, byte {last}: record cut off after")
    path.write_bytes(whole[:last])
    found = faults(data)
    assert found[0].startswith(f"text_0.tfrecords: {last} bytes, the ledger says {len(whole)}")


def test_missing_extra_and_replaced_shards(data):
    (data / "text_0.tfrecords").rename(data / "text_77.tfrecords")
    found = faults(data)
    assert "text_0.tfrecords: missing shard" in found and "text_77.tfrecords: not in the ledger" in found
    (data / "text_77.tfrecords").rename(data / "text_0.tfrecords")
    first, second = (data / f"text_{n}.tfrecords" for n in (0, 1))
    first.write_bytes(second.read_bytes()[: offsets(second)[1]])
    assert any("text_0.tfrecords: " in f for f in faults(data))


def test_damaged_index_and_tokenizer(data):
    (data / "text_0.tfrecords.index.npy").unlink()
    np.save(data / "text_1.tfrecords.index.npy", np.zeros((3, 2), np.int64))
    (data / "tokenizer" / "byte.json").write_text("{}")
    assert set(faults(data)) == {
        "text_0.tfrecords.index.npy: missing index",
        "text_1.tfrecords.index.npy: sha256 is not the ledger's",
        "tokenizer/byte.json: sha256 is not the ledger's",
    }


def test_an_id_outside_the_vocabulary_is_named(tmp_path):
    framed = records.encode_documents(np.array([1, 2, 3, 4, 999, 6], np.uint32), [3, 3], [b"a" * 32] * 2)
    (tmp_path / "old_0.tfrecords").write_bytes(b"".join(framed))
    report = check.check(str(tmp_path), n_vocab=257)
    assert [str(f) for f in report.faults] == [
        f"old_0.tfrecords, byte {len(framed[0])}: token 1 of the document is id 999 (the vocabulary has 257)"
    ]
    assert check.check(str(tmp_path)).faults == [] and check.check(str(tmp_path)).largest_id == 999


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="tfgpt encode"):
        check.check(str(tmp_path))


def test_command_line_exit_codes_and_json(data, capsys):
    assert main(["data", "check", str(data)]) == 0
    assert "every byte is what it should be" in capsys.readouterr().out
    (data / "text_0.tfrecords").unlink()
    assert main(["data", "check", str(data), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"][0]["what"] == "missing shard"


def test_show_prints_samples_and_lengths(data, capsys):
    assert main(["data", "show", str(data), "--samples", "2", "--split", "eval"]) == 0
    out = capsys.readouterr().out
    known = ledger.read(data)
    assert f"{known.totals('train')['tokens']:,} tokens" in out and out.count("--- text-eval_") == 2


def test_samples_are_the_documents_themselves(data):
    known = ledger.read(data)
    total = known.totals("train")["records"]
    drawn = list(show.samples(str(data), known, "train", count=total + 5))
    everything = []
    for path in known.paths(data, "train"):
        with open(path, "rb") as stream:
            everything += [d.ids.tolist() for d in records.read_documents(stream)]
    assert [ids.tolist() for _, ids in drawn] == everything
    assert sorted(show.lengths(str(data), known, "train").tolist()) == sorted(map(len, everything))


def test_histogram_counts_by_powers_of_two():
    values = np.array([1, 2, 3, 4, 5, 8, 9, 1000])
    counts = {}
    for line in show.histogram(values):
        bound, rest = line.split(" tokens")
        counts[bound.strip()] = int(rest.split()[0])
    expected = {}
    for value in values.tolist():
        bound = 1
        while bound < value:
            bound *= 2
        expected[f"{bound:,}".replace(",", " ")] = expected.get(f"{bound:,}".replace(",", " "), 0) + 1
    assert {bound: count for bound, count in counts.items() if count} == expected


def test_control_characters_of_a_document_never_reach_the_terminal(data):
    tokenizer = show.folder_tokenizer(str(data))
    assert "\x1b" not in show.excerpt(tokenizer, np.array(list(b"a\x1b[31mred")))


def test_an_interrupted_encode_is_no_sound_data(data, capsys):
    (data / "ledger.json").unlink()
    (data / ".encode").mkdir()
    (data / ".encode" / "state.json").write_text("{}")
    assert main(["data", "check", str(data)]) == 1
    assert "an encode was interrupted here" in capsys.readouterr().out


def test_without_a_ledger_only_checksums_are_claimed(data, capsys):
    (data / "ledger.json").unlink()
    assert main(["data", "check", str(data)]) == 0
    out = capsys.readouterr().out
    assert "no ledger to compare with" in out and "every byte" not in out


@pytest.mark.parametrize("damage", ["index", "shard", "ledger"])
def test_showing_damaged_data_names_the_file_and_the_next_command(data, damage, capsys):
    if damage == "ledger":
        (data / "ledger.json").write_text((data / "ledger.json").read_text().replace('"n_vocab"', '"n_words"'))
    else:
        for path in data.glob("text_*" + (".npy" if damage == "index" else ".tfrecords")):
            path.write_bytes(path.read_bytes()[:40])
    assert main(["data", "show", str(data), "--samples", "99"]) == 1
    err = capsys.readouterr().err
    assert ("data check" in err or "encode the text anew" in err) and "--debug" not in err
