"""An encode as a whole: what goes in comes out, once, on one side, in a form that TensorFlow reads."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import ftfy
import numpy as np
import pytest

from tests.data.conftest import contents, run, write_texts
from tfgpt import tokenizers
from tfgpt.data import ledger, records
from tfgpt.data.documents import Rules
from tfgpt.errors import Failure, UserError


def decoded(folder: Path, split: str) -> list[str]:
    tokenizer = tokenizers.load(folder / "tokenizer")
    out = []
    for path in ledger.read(folder).paths(folder, split):
        with open(path, "rb") as stream:
            out += [tokenizer.decode(d.ids) for d in records.read_documents(stream)]
    return out


def test_every_document_once_repaired_and_on_one_side(texts, tmp_path):
    result = run(texts, tmp_path / "out", split="documents", rules=Rules(eval_fraction=0.3))
    train, held = decoded(tmp_path / "out", "train"), decoded(tmp_path / "out", "eval")
    expected = sorted(ftfy.fix_text(p.read_text("utf-8"), normalization="NFKC") for p in texts.rglob("*.txt"))
    assert sorted(train + held) == expected
    assert not set(train) & set(held) and 5 < len(held) < 35
    assert result.totals("train")["text_bytes"] == sum(len(t.encode()) for t in train)
    assert result.totals("eval")["tokens"] == sum(len(t.encode()) for t in held)


def test_tensorflow_reads_the_folder_as_the_seed_did(texts, tmp_path):
    tf = pytest.importorskip("tensorflow")
    run(texts, tmp_path / "out", shard_bytes=20_000)
    paths = sorted(str(p) for p in (tmp_path / "out").glob("*.tfrecords"))
    spec = {"text": tf.io.VarLenFeature(tf.int64), "hash": tf.io.VarLenFeature(tf.string)}
    count = 0
    for raw in tf.data.TFRecordDataset(paths):
        example = tf.io.parse_single_example(raw, spec)
        ids = tf.sparse.to_dense(example["text"]).numpy()
        assert ids.dtype == np.int64 and ids.max() < 257
        assert len(example["hash"].values.numpy()[0]) == 32
        count += 1
    known = ledger.read(tmp_path / "out")
    assert count == sum(known.totals(s)["records"] for s in known.splits) and len(paths) > 2


def test_number_of_processes_does_not_matter(tmp_path, monkeypatch):
    from tfgpt.data import workers

    texts = write_texts(tmp_path / "texts", 40, words=2000)
    monkeypatch.setattr("tfgpt.data.sources.UNIT_FILES", 7)
    run(texts, tmp_path / "one", processes=1, shard_bytes=100_000)
    monkeypatch.setattr(workers, "SMALL_JOB", 0)
    run(texts, tmp_path / "two", processes=2, shard_bytes=100_000)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_adding_files_moves_no_document_to_the_other_side(tmp_path):
    texts = write_texts(tmp_path / "texts", 80)
    rules = Rules(eval_fraction=0.2)
    run(texts, tmp_path / "before", split="documents", rules=rules)
    write_texts(tmp_path / "texts" / "new", 80, seed=9)
    run(texts, tmp_path / "after", split="documents", rules=rules)
    for split in ("train", "eval"):
        assert set(decoded(tmp_path / "before", split)) <= set(decoded(tmp_path / "after", split))


def test_of_few_documents_the_end_of_each_is_held_out(tmp_path):
    texts = write_texts(tmp_path / "texts", 60, words=600)
    result = run(texts, tmp_path / "out", rules=Rules(eval_fraction=0.25))
    assert result.rules["split"] == "tail"
    train, held = decoded(tmp_path / "out", "train"), decoded(tmp_path / "out", "eval")
    assert len(train) == len(held) == 60
    originals = {ftfy.fix_text(p.read_text("utf-8"), normalization="NFKC") for p in texts.rglob("*.txt")}
    assert {a + b for a, b in zip(train, held, strict=True)} == originals
    share = sum(map(len, held)) / sum(map(len, train + held))
    assert 0.2 < share < 0.32


def test_many_documents_are_split_whole_by_themselves(tmp_path):
    result = run(write_texts(tmp_path / "texts", 100, words=12), tmp_path / "out", rules=Rules(eval_fraction=0.2))
    assert result.rules["split"] == "documents" and result.totals("eval")["records"] > 5


def test_duplicates_and_short_documents_are_counted_with_their_place(texts, tmp_path):
    (texts / "zz-copy.txt").write_bytes(next(texts.glob("document-00001.txt")).read_bytes())
    (texts / "zz-short.txt").write_text("too short", encoding="utf-8")
    (texts / "zz-broken.txt").write_bytes(b"good text at first, then \xff\xfe\x80 and more of it")
    result = run(texts, tmp_path / "out", split="tail", rules=Rules(eval_fraction=0.3))
    assert {reason: entry["count"] for reason, entry in result.dropped.items()} == {
        "duplicate": 2,  # its beginning and its held-out end
        "too short": 1,
        "not UTF-8": 1,
    }
    assert result.dropped["not UTF-8"]["examples"][0].endswith(
        "zz-broken.txt: byte 25 of the document: invalid start byte"
    )
    kept = run(texts, tmp_path / "kept", drop_duplicates=False)
    assert "duplicate" not in kept.dropped


def test_shards_have_the_size_asked_for(texts, tmp_path):
    result = run(texts, tmp_path / "out", shard_bytes=10_000, split="none")
    sizes = [s.bytes for s in result.splits["train"]]
    assert len(sizes) > 3 and all(10_000 <= size < 12_500 for size in sizes[:-1])
    by_files = run(texts, tmp_path / "files", files_per=25, split="none", name="openwebtext-newspaper")
    assert [s.records for s in by_files.splits["train"]] == [25, 25, 10]
    assert [s.file for s in by_files.splits["train"]] == [f"openwebtext-newspaper_{i}.tfrecords" for i in range(3)]


def test_ftfy_can_be_left_out(texts, tmp_path):
    run(texts, tmp_path / "out", split="none", rules=Rules(fix_text=False))
    assert sorted(decoded(tmp_path / "out", "train")) == sorted(p.read_text("utf-8") for p in texts.rglob("*.txt"))


def test_the_same_command_again_does_nothing_and_another_one_is_refused(texts, tmp_path):
    first = run(texts, tmp_path / "out")
    before = contents(tmp_path / "out")
    assert run(texts, tmp_path / "out") == first and contents(tmp_path / "out") == before
    with pytest.raises(UserError, match="finished data set"):
        run(texts, tmp_path / "out", rules=Rules(minimum_size=3))
    assert contents(tmp_path / "out") == before
    again = run(texts, tmp_path / "out", rules=Rules(minimum_size=3), restart=True)
    assert again.rules["minimum_size"] == 3 and not (tmp_path / "out" / ".encode").exists()


def test_restart_leaves_strangers_alone(texts, tmp_path):
    out = tmp_path / "out"
    run(texts, out)
    (out / "notes.txt").write_text("mine")
    (out / "other_0.tfrecords").write_bytes(b"")
    run(texts, out, restart=True)
    assert (out / "notes.txt").read_text() == "mine" and (out / "other_0.tfrecords").exists()


def test_two_encodes_of_one_folder_are_refused(texts, tmp_path):
    from tfgpt.locks import folder_lock

    with (
        folder_lock(tmp_path / "out" / ".encode" / "lock", purpose="an encode"),
        pytest.raises(UserError, match="already running"),
    ):
        run(texts, tmp_path / "out")


def test_full_disk_stops_cleanly_and_can_go_on(tmp_path, monkeypatch):
    from tfgpt.data import merger, shards

    texts = write_texts(tmp_path / "texts", 60)
    monkeypatch.setattr("tfgpt.data.sources.UNIT_FILES", 5)
    run(texts, tmp_path / "straight", shard_bytes=9000)
    monkeypatch.setattr(merger, "COMMIT_SECONDS", 0)
    honest, room = shards.Writer.add, [35]

    def full(self, *record):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        honest(self, *record)

    monkeypatch.setattr(shards.Writer, "add", full)
    with pytest.raises(Failure, match="disk is full"):
        run(texts, tmp_path / "out", shard_bytes=9000)
    monkeypatch.setattr(shards.Writer, "add", honest)
    run(texts, tmp_path / "out", shard_bytes=9000)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_really_full_disk(tmp_path):
    """A file-size limit makes the kernel refuse writes, as a full disk does."""
    import subprocess
    import sys

    texts = write_texts(tmp_path / "texts", 50, words=600)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from tfgpt.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["encode", str(texts), "--tokenizer", "byte", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "ledger.json").exists()
    run(texts, tmp_path / "out")
    run(texts, tmp_path / "straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_nothing_left_to_write_says_why(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError) as caught:
        run(tmp_path / "a.txt", tmp_path / "out")
    assert "1 too short" in str(caught.value) and "--minimum_size" in str(caught.value)


def test_trained_tokenizer_lies_beside_the_data_and_is_not_trained_twice(texts, tmp_path, monkeypatch):
    from tfgpt.data import vocabulary

    result = run(texts, tmp_path / "out", tokenizer="bpe:300")
    assert result.tokenizer["kind"] == "bpe" and result.tokenizer["n_vocab"] <= 300
    before = contents(tmp_path / "out")
    monkeypatch.setattr(vocabulary, "train", lambda *a, **k: pytest.fail("trained again"))
    assert run(texts, tmp_path / "out", tokenizer="bpe:300") == result
    with pytest.raises(UserError, match="finished data set"):
        run(write_texts(tmp_path / "others", 9, seed=5), tmp_path / "out", tokenizer="bpe:300")
    assert contents(tmp_path / "out") == before


def test_an_interrupted_encode_goes_on_with_the_tokenizer_it_trained(texts, tmp_path, monkeypatch):
    from tfgpt.data import shards, vocabulary

    run(texts, tmp_path / "straight", tokenizer="bpe:300")
    honest = shards.Writer.add
    monkeypatch.setattr(shards.Writer, "add", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(texts, tmp_path / "out", tokenizer="bpe:300")
    monkeypatch.setattr(shards.Writer, "add", honest)
    monkeypatch.setattr(vocabulary, "train", lambda *a, **k: pytest.fail("trained again"))
    run(texts, tmp_path / "out", tokenizer="bpe:300")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_the_output_may_lie_inside_the_input(texts):
    first = run(texts, texts / "data", tokenizer="bpe:300")
    assert first.sources["files"] == 60 and run(texts, texts / "data", tokenizer="bpe:300") == first


def test_character_level_follows_nanogpt_on_one_text(tmp_path):
    text = "".join(chr(97 + i % 26) for i in range(5000)) + "\n"
    (tmp_path / "input.txt").write_text(text)
    result = run(
        tmp_path / "input.txt", tmp_path / "out", tokenizer="char", rules=Rules(eval_fraction=0.1, minimum_size=1)
    )
    assert result.tokenizer["n_vocab"] == 28  # 26 letters, the newline, end of text
    assert "".join(decoded(tmp_path / "out", "train") + decoded(tmp_path / "out", "eval")) == text
    assert result.totals("eval")["tokens"] == 501


def test_state_is_json_without_places_of_this_machine_in_the_ledger(texts, tmp_path):
    run(texts, tmp_path / "out")
    text = (tmp_path / "out" / "ledger.json").read_text("utf-8")
    assert json.loads(text)["format"] == "tfgpt-data-1" and os.fspath(tmp_path) not in text


def test_files_that_are_not_ours_are_never_touched(texts, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("text_0.tfrecords", "text_7.tfrecords", "text-eval_0.tfrecords"):
        (out / name).write_text("precious")
    before = contents(out)
    for restart in (False, True):
        with pytest.raises(UserError, match="did not make here"):
            run(texts, out, restart=restart)
        assert contents(out) == before
    run(texts, out, name="mine")
    assert {name: data for name, data in contents(out).items() if name in before} == before


def test_restart_destroys_nothing_before_the_new_command_makes_sense(texts, tmp_path):
    run(texts, tmp_path / "out")
    before = contents(tmp_path / "out")
    for wrong in ({"tokenizer": "nonsense"}, {"rules": Rules(encoding="nonsense")}, {"name": "../evil"}, {"name": ""}):
        with pytest.raises(UserError):
            run(texts, tmp_path / "out", restart=True, **wrong)
        assert contents(tmp_path / "out") == before
    assert {p.name for p in tmp_path.iterdir()} == {"out", "texts"}


def test_restart_with_another_tokenizer_or_name_leaves_one_data_set(texts, tmp_path):
    from tfgpt.data import check

    run(texts, tmp_path / "out", tokenizer="bpe:300", shard_bytes=5000, name="aa")
    run(texts, tmp_path / "out", tokenizer="char", restart=True, name="bb")
    assert check.check(str(tmp_path / "out")).faults == []
    assert contents(tmp_path / "out") == contents_of_fresh(texts, tmp_path / "fresh")


def contents_of_fresh(texts, folder):
    run(texts, folder, tokenizer="char", name="bb")
    return contents(folder)


def test_a_wrong_command_can_be_corrected_without_restart(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,body\n1," + "words of a cell " * 20 + "\n")
    with pytest.raises(UserError, match='no column "text"'):
        run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(tmp_path / "in", tmp_path / "out", rules=Rules(key="body"))


def test_an_encode_that_got_nowhere_does_not_stand_in_the_way(texts, tmp_path, monkeypatch):
    from tfgpt.data import shards

    honest = shards.Writer.add
    monkeypatch.setattr(shards.Writer, "add", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(texts, tmp_path / "out", tokenizer="bpe:300")
    monkeypatch.setattr(shards.Writer, "add", honest)
    run(texts, tmp_path / "out")
    assert ledger.read(tmp_path / "out").tokenizer["kind"] == "byte"


def test_a_lost_shard_of_finished_data_is_noticed(texts, tmp_path):
    run(texts, tmp_path / "out")
    (tmp_path / "out" / "text_0.tfrecords").unlink()
    with pytest.raises(Failure, match="missing or of another size"):
        run(texts, tmp_path / "out")
    run(texts, tmp_path / "out", restart=True)


def test_what_a_kill_leaves_behind_is_swept_away(texts, tmp_path):
    out = tmp_path / "out"
    run(texts, out)
    before = contents(out)
    # Killed between the ledger and the removal of the state, and in the middle of temporary files.
    (out / ".encode").mkdir()
    (out / ".encode" / "state.json").write_text('{"fingerprint": "", "name": "text"}')
    run(texts, out)
    assert contents(out) == before
    for name in (".text_0.tfrecords.index.npy.tmp-7-x", ".ledger.json.tmp-7-x"):
        (out / name).write_text("")
    (out / ".tokenizer.tmp-7").mkdir()
    run(texts, out, restart=True)
    assert contents(out) == before and not (out / ".tokenizer.tmp-7").exists()


def test_text_and_data_in_one_folder(texts):
    first = run(texts, texts)
    assert first.sources["files"] == 60
    assert run(texts, texts) == first


def test_one_file_under_three_names_counts_once(tmp_path, monkeypatch):
    write_texts(tmp_path / "g", 3)
    (tmp_path / "link").symlink_to(tmp_path / "g")
    monkeypatch.chdir(tmp_path)
    result = run(["g", "./g", str(tmp_path / "g"), "link/*.txt"], tmp_path / "out", drop_duplicates=False)
    assert result.sources["documents"] == 3


def test_links_to_nowhere_are_passed_by(texts, tmp_path):
    (texts / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (texts / "circle.txt").symlink_to(texts / "circle.txt")
    assert run(texts, tmp_path / "out").sources["files"] == 60


def test_names_that_are_no_text_survive_into_the_ledger(texts, tmp_path, capsys):
    from tfgpt.cli import main

    with open(os.fsencode(texts) + b"/bad\xff\n\x1b[31mname.txt", "wb") as stream:
        stream.write(b"short")
    assert run(texts, tmp_path / "out").dropped["too short"]["count"] == 1
    assert main(["data", "show", str(tmp_path / "out")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_short_documents_are_held_out_whole_even_when_they_are_few(tmp_path):
    result = run(write_texts(tmp_path / "texts", 390, words=24), tmp_path / "out")
    assert result.rules["split"] == "documents" and 5 < result.totals("eval")["records"] < 40


def test_the_output_may_not_be_a_file(texts, tmp_path):
    (tmp_path / "afile").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        run(texts, tmp_path / "afile")
    assert (tmp_path / "afile").read_text() == "x"


def test_an_empty_folder_of_the_users_stays(texts, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(UserError):
        run(texts, ".", tokenizer="nonsense")
    assert list((tmp_path / "out").iterdir()) == []


def test_restart_keeps_the_old_data_until_the_new_is_finished(texts, tmp_path):
    run(texts, tmp_path / "out", tokenizer="bpe:300", shard_bytes=5000)
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="nothing was left to write"):
        run(texts, tmp_path / "out", restart=True, rules=Rules(minimum_size=10**6))
    assert contents(tmp_path / "out") == before
    run(texts, tmp_path / "out", restart=True)
    run(texts, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_an_unfinished_shard_that_was_damaged_is_not_published(texts, tmp_path, monkeypatch):
    from tfgpt.data import merger, shards

    monkeypatch.setattr("tfgpt.data.sources.UNIT_FILES", 10)
    monkeypatch.setattr(merger, "COMMIT_SECONDS", 0)
    honest, room = shards.Writer.add, [25]

    def stop(self, *record):
        room[0] -= 1
        if room[0] < 0:
            raise KeyboardInterrupt
        honest(self, *record)

    monkeypatch.setattr(shards.Writer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        run(texts, tmp_path / "out")
    monkeypatch.setattr(shards.Writer, "add", honest)
    part = tmp_path / "out" / ".encode" / "text.part"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(Failure, match="damaged since"):
        run(texts, tmp_path / "out")
    run(texts, tmp_path / "out", restart=True)
    run(texts, tmp_path / "straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_input_that_shrinks_while_it_is_read_is_reported(tmp_path, name):
    from tfgpt.data import readers, sources

    path = tmp_path / name
    path.write_text(json.dumps({"text": "words " * 50}) + "\n", encoding="utf-8")
    (unit,) = sources.plan(sources.find([str(path)]).sources)
    path.write_text("")
    assert [raw.problem for raw in readers.read(unit)] == ["unreadable (the file became shorter while it was read)"]


def test_a_mistake_found_late_throws_no_work_away(texts, tmp_path, monkeypatch):
    """As a missing package is: the mend is to install it and to repeat the command."""
    from tfgpt.data import tables

    monkeypatch.setattr("tfgpt.data.sources.UNIT_FILES", 10)
    (texts / "zz.csv").write_text("text\n" + "words of a cell " * 20 + "\n")
    run(texts, tmp_path / "straight", split="documents")
    honest = tables._rows

    def unable(*arguments):
        raise UserError("a package is missing", fix="install it")

    monkeypatch.setattr(tables, "_rows", unable)
    with pytest.raises(UserError, match="a package is missing"):
        run(texts, tmp_path / "out", split="documents")
    assert (tmp_path / "out" / ".encode" / "state.json").exists()
    monkeypatch.setattr(tables, "_rows", honest)
    run(texts, tmp_path / "out", split="documents")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


@pytest.mark.parametrize("moves", [1, 2, 4])
def test_a_restart_that_is_killed_while_it_sets_the_old_data_aside_loses_nothing(texts, tmp_path, monkeypatch, moves):
    out = tmp_path / "out"
    run(texts, out, shard_bytes=5000)
    before = contents(out)
    honest, left = Path.rename, [moves]

    def killed(self, target):
        if not left[0]:
            os._exit(9)
        left[0] -= 1
        return honest(self, target)

    child = os.fork()
    if child == 0:
        Path.rename = killed
        run(texts, out, restart=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert contents(out) != before
    run(texts, out, shard_bytes=5000)
    assert contents(out) == before
