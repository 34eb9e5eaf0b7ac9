"""What is found, and how it is cut: brute-force readings of the same files are the reference."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile

import numpy as np
import pytest
import zstandard

from tests.data.conftest import run, write_texts
from tfgpt.data import documents, ledger, readers, sources, texts
from tfgpt.data.documents import Rules
from tfgpt.errors import UserError

DOCUMENTS = [f"document {n}: " + "naïve words, “quoted” and plain. " * (n % 5 + 2) for n in range(30)]


def texts_of(*inputs, **options) -> list[str]:
    return list(texts.texts([str(i) for i in inputs], fix_text=False, **options))


def raws(path, **options) -> list[readers.Raw]:
    return [raw for unit in sources.plan(sources.find([str(path)], **options).sources) for raw in readers.read(unit)]


@pytest.mark.parametrize(
    "suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)]
)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tar"])
def test_every_format_in_every_compression(tmp_path, kind, suffix, pack):
    if kind == "txt":
        data, expected = DOCUMENTS[0].encode(), DOCUMENTS[:1]
    elif kind == "jsonl":
        data, expected = (
            "\n".join(json.dumps({"id": n, "text": d}) for n, d in enumerate(DOCUMENTS)).encode(),
            DOCUMENTS,
        )
    elif kind == "csv":
        table = io.StringIO()
        csv.writer(table).writerows(
            [["id", "text"], *([n, d + '\n"quoted", two lines'] for n, d in enumerate(DOCUMENTS))]
        )
        data, expected = table.getvalue().encode(), [d + '\n"quoted", two lines' for d in DOCUMENTS]
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for n, d in enumerate(DOCUMENTS):
                member = tarfile.TarInfo(f"../../evil/{n:03}.txt")
                member.size = len(d.encode())
                archive.addfile(member, io.BytesIO(d.encode()))
            archive.addfile(tarfile.TarInfo("photo.png"))
        data, expected = stream.getvalue(), DOCUMENTS
    path = tmp_path / f"input.{kind}{suffix}"
    path.write_bytes(pack(data))
    assert texts_of(path) == expected
    assert not (tmp_path.parent.parent / "evil").exists()


@pytest.mark.parametrize("spread", ["list", "one", "lines", "indented"])
def test_json_files_of_every_shape(tmp_path, spread):
    objects = [{"text": document} for document in DOCUMENTS]
    text = {
        "list": json.dumps(objects),
        "one": json.dumps(objects[0]),
        "lines": "\n".join(map(json.dumps, objects)),
        "indented": json.dumps(objects, indent=2),
    }[spread]
    (tmp_path / "a.json").write_text(text)
    assert texts_of(tmp_path / "a.json") == (DOCUMENTS[:1] if spread == "one" else DOCUMENTS)


def test_a_large_json_file_is_read_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "PIECE", 500)
    (tmp_path / "a.json").write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS))
    assert texts_of(tmp_path / "a.json") == DOCUMENTS


def test_parquet_column(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"id": range(31), "body": [*DOCUMENTS, None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    assert texts_of(tmp_path / "a.parquet", key="body") == DOCUMENTS
    with pytest.raises(UserError, match='no column "text"') as caught:
        texts_of(tmp_path / "a.parquet")
    assert '"body"' in caught.value.nearest


@pytest.mark.parametrize("size", [1, 100, 4096])
def test_ranges_of_a_large_file_hold_every_line_once(tmp_path, monkeypatch, size):
    draw = random.Random(size)
    lines = [
        json.dumps({"text": "x" * draw.choice([0, 3, 50, 300]) + f" é{n}"}, ensure_ascii=False) for n in range(200)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(sources, "UNIT_BYTES", size if size > 1 else 64)
    found = [documents.text_of(raw, key="text", fix_text=False) for raw in raws(path)]
    assert found == [json.loads(line)["text"] for line in lines]
    for raw in raws(path):
        assert path.read_bytes()[int(raw.where.rsplit(" ", 1)[1]) :].startswith(raw.data)


@pytest.mark.parametrize(
    "text", ["é" * 5000, "word " * 3000, "line of text\n" * 2000, "\n" * 4000, "a\n" + "中" * 9000 + "\nb", ""]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_long_text_is_cut_at_line_ends_and_loses_nothing(tmp_path, monkeypatch, text, compressed):
    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 1000)
    path = tmp_path / ("a.txt.gz" if compressed else "a.txt")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    pieces = texts_of(path)
    assert "".join(pieces) == text
    if text.count("\n") > 9:
        assert len(pieces) > 2 and all(piece.endswith("\n") for piece in pieces[:-1])


def test_a_line_without_end_is_cut_between_characters(tmp_path, monkeypatch):
    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 1 << 20)
    text = "é中🙂" * 400_000  # 3.6 MB without a single line end
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(text.encode()))
    for name in ("a.txt", "b.txt.zst"):
        pieces = texts_of(tmp_path / name)
        assert "".join(pieces) == text and len(pieces) > 1


def test_folders_globs_hidden_and_unknown_files(tmp_path):
    write_texts(tmp_path / "in", 6)
    (tmp_path / "in" / ".hidden.txt").write_text("x")
    (tmp_path / "in" / ".git").mkdir()
    (tmp_path / "in" / ".git" / "a.txt").write_text("x")
    (tmp_path / "in" / "photo.png").write_bytes(b"\x89PNG")
    found = sources.find([str(tmp_path / "in")])
    assert len(found.sources) == 6 and found.skipped == {".png": 1}
    assert [s.path for s in found.sources] == sorted(s.path for s in found.sources)
    by_glob = sources.find([str(tmp_path / "in" / "**" / "*.txt"), str(tmp_path / "in")])
    assert {s.path for s in by_glob.sources} >= {s.path for s in found.sources}
    named = sources.find([str(tmp_path / "in" / "photo.png")])
    assert named.sources[0].format == "text"


@pytest.mark.parametrize("given", ["nothing-here", "*.nothing"])
def test_missing_input_is_an_error(tmp_path, given):
    with pytest.raises(UserError):
        sources.find([str(tmp_path / given)])


def test_folder_without_text_says_what_it_holds(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"1 × \.pdf"):
        sources.find([str(tmp_path)])


def test_nanogpt_bins_keep_their_split_and_their_documents(tmp_path):
    draw = np.random.default_rng(0)
    train = [draw.integers(0, 256, draw.integers(30, 90)) for _ in range(40)]
    val = [draw.integers(0, 256, 50)]
    for name, docs in (("train", train), ("val", val)):
        stream = np.concatenate([np.append(d, 50256) for d in docs]).astype("<u2")
        (tmp_path / f"{name}.bin").write_bytes(stream.tobytes())
    found = raws(tmp_path)
    assert [r.data.tolist() for r in found if r.split == "train"] == [d.tolist() for d in train]
    assert [r.data.tolist() for r in found if r.split == "eval"] == [d.tolist() for d in val]


@pytest.mark.parametrize("size", [64, 250, 1000])
def test_nanogpt_documents_survive_the_cut_into_ranges(tmp_path, monkeypatch, size):
    docs = [[n % 50000, 7, 8] * (n % 30 + 1) for n in range(200)]
    stream = np.array([i for d in docs for i in [*d, 50256]], "<u2")
    (tmp_path / "train.bin").write_bytes(stream.tobytes())
    monkeypatch.setattr(sources, "UNIT_BYTES", size)
    assert [r.data.tolist() for r in raws(tmp_path / "train.bin")] == docs


def test_nanogpt_characters_bring_their_alphabet(tmp_path):
    text = "hello nanoGPT, " * 40
    alphabet = sorted(set(text))
    stoi = {c: i for i, c in enumerate(alphabet)}
    meta = {"vocab_size": len(alphabet), "stoi": stoi, "itos": dict(enumerate(alphabet))}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    for name, part in (("train", text[:500]), ("val", text[500:])):
        (tmp_path / f"{name}.bin").write_bytes(np.array([stoi[c] for c in part], "<u2").tobytes())
    result = run(tmp_path / "*.bin", tmp_path / "out", tokenizer="gpt2")
    assert result.tokenizer["n_vocab"] == len(alphabet)
    assert result.totals("train")["tokens"] == 500 and result.totals("eval")["tokens"] == 100
    assert result.totals("train")["text_bytes"] == 500


def test_encode_py_archives_lose_their_typed_separators(tmp_path):
    typed = readers.TEXT_SEPARATOR.tolist()
    first, second, third = list(range(100, 140)), list(range(200, 250)), [27, 91, 437] * 12
    chunks = [np.array([*first, *typed, *second, *typed]), np.array([*third, 50256, *first])]
    np.savez_compressed(tmp_path / "a.npz", *chunks)
    assert [r.data.tolist() for r in raws(tmp_path / "a.npz")] == [first, second, third, first]


def test_object_arrays_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([{"evil": 1}], dtype=object))
    (raw,) = raws(tmp_path / "a.npz")
    assert raw.problem == "not a list of token ids"


def test_chat_lines_are_checked_and_kept_as_they_are(tmp_path):
    good = [f"{n % 2}|+mum|message number {n} <EOM>" for n in range(8)]
    (tmp_path / "a.txt").write_text("\n".join([*good[:4], "no chat line", *good[4:]]) + "\n")
    result = run(tmp_path / "a.txt", tmp_path / "out", format="chat", split="none", rules=Rules(minimum_size=1))
    assert result.dropped["chat line without direction|audience|message <EOM>"]["count"] == 1
    assert result.totals("train")["text_bytes"] == len("\n".join(good)) + 1


def test_bad_lines_and_rows_are_counted_not_fatal(tmp_path):
    lines = [
        b'{"text": "a good line of text"}',
        b'{"text": broken',
        b'{"body": "no key"}',
        b'{"text": "\xff"}',
        b'"bare string, long enough"',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "b.csv").write_bytes(b"id,text\n1,a good cell of text\n2\n3,bad \xff cell\n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"truncated " * 5000)[:-30])
    result = run(tmp_path, tmp_path / "out", split="none", rules=Rules(minimum_size=5))
    counts = {reason: entry["count"] for reason, entry in result.dropped.items()}
    assert counts == {
        "broken JSON": 2, 'no text under the key "text"': 1, "not UTF-8": 2,
        "row without that cell": 1, "unreadable": 1,
    }  # fmt: skip
    assert result.totals("train")["records"] == 3


def test_byte_order_marks_and_other_encodings(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve text".encode("utf-16"))
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + "naïve text".encode())
    assert texts_of(tmp_path) == ["naïve text"] * 2
    (tmp_path / "c.txt").write_bytes("naïve text".encode("latin-1"))
    run(tmp_path / "c.txt", tmp_path / "out", split="none", rules=Rules(minimum_size=1, encoding="latin-1"))
    assert ledger.read(tmp_path / "out").totals("train")["text_bytes"] == len("naïve text".encode())


def test_one_huge_line_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT", 1000)
    good = json.dumps({"text": "fine"})
    (tmp_path / "a.jsonl").write_text("\n".join([good, json.dumps({"text": "x" * 5000}), good]))
    found = raws(tmp_path / "a.jsonl")
    assert [r.problem for r in found] == ["", "line longer than 64 MB", ""]
