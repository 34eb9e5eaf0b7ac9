"""Broken, cut, foreign and hostile input: nothing is lost in silence, nothing ends the job, memory stays bounded."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.data.conftest import run
from tests.data.reading import DOCUMENTS, NOISE, as_json, good, raws, reasons, tar
from tfgpt.data import documents, readers, sources, streams, tables, token_files
from tfgpt.data.documents import Rules
from tfgpt.errors import UserError

# Encodings


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "cp037"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [20, 3000])
def test_text_with_other_line_ends_is_cut_between_lines(tmp_path, monkeypatch, codec, packed, length):
    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 1000)
    # U+0A0A and U+0D0A hold the byte of a line end where there is none.
    special = "é" if codec == "cp037" else "é中🙂\u0a0a\u0d0a"
    text = "".join(f"line {n} {special}\n" for n in range(length))
    data = text.encode(codec)
    (tmp_path / ("a.txt.gz" if packed else "a.txt")).write_bytes(gzip.compress(data) if packed else data)
    found = raws(tmp_path, encoding=codec)
    assert reasons(found) == [] and "".join(good(found)) == text
    assert all(piece.endswith("\n") and len(piece.encode()) < 1100 for piece in good(found))
    if codec in ("utf-16", "utf-32"):  # the mark tells
        assert raws(tmp_path) == found


def test_the_units_of_such_a_text_read_it_once(tmp_path, monkeypatch):
    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 1000)
    text = "some words on a line\n" * 500
    (tmp_path / "a.txt").write_bytes(text.encode("utf-16"))
    units = sources.plan(sources.find([str(tmp_path)]).sources)
    assert [unit.kind for unit in units] == ["stream"] and len(list(readers.read(units[0]))) > 5
    result = run(tmp_path, tmp_path / "out", split="none", rules=Rules(minimum_size=1), drop_duplicates=False)
    assert result.totals("train")["text_bytes"] == len(text)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_lines_and_rows_in_utf_16(tmp_path, name, codec):
    body = {
        "a.jsonl": "".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in DOCUMENTS),
        "a.json": json.dumps([{"text": d} for d in DOCUMENTS]),
        "a.csv": "text\n" + "".join(f'"{d}"\n' for d in DOCUMENTS),
    }[name]
    (tmp_path / name).write_bytes(body.encode(codec))
    found = raws(tmp_path, encoding=codec)
    assert [documents.text_of(raw, key="text", fix_text=False, encoding=codec) for raw in found] == DOCUMENTS


def test_broken_utf_16_is_reported(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_LE + b"\x00\xd8a\x00")
    assert reasons(raws(tmp_path)) == ["not UTF-16-LE"]


@pytest.mark.parametrize("name", ["no-such", "hex"])
def test_an_unknown_encoding_is_an_error(tmp_path, name):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=f'no text encoding "{name}"'):
        raws(tmp_path, encoding=name)


# Tables, ids, files that are gone


def test_csv_files_of_every_shape(tmp_path):
    (tmp_path / "x.tsv.d").mkdir()
    shapes = {
        "x.tsv.d/m.csv": b"id,text\n1,with a comma\n", "t.TSV": b"id\ttext\n1\ta, b\n", "empty.csv": b"",
        "blank.csv": b"\xef\xbb\xbf\n\r\n", "lines.csv": b"\n\nid,text\n\n1,one\n\n2\n3,4,5,6\n\n", "mac.csv": b"text\rone\rtwo\r",
    }  # fmt: skip
    for name, data in shapes.items():
        (tmp_path / name).write_bytes(data)
    texts = {name: good(raws(tmp_path / name)) for name in shapes}
    assert texts["x.tsv.d/m.csv"] == [b"with a comma"] and texts["t.TSV"] == [b"a, b"]
    assert texts["empty.csv"] == texts["blank.csv"] == [] == raws(tmp_path / "empty.csv")
    assert texts["lines.csv"] == [b"one", b"4"] and texts["mac.csv"] == [b"one", b"two"]
    (short,) = (raw for raw in raws(tmp_path / "lines.csv") if raw.problem)
    assert short.problem == "row without that cell (1 cells, the text is in cell 2)" and short.where.endswith("line 7")
    with pytest.raises(UserError, match='no column "body"'):
        raws(tmp_path / "lines.csv", key="body")


def test_huge_csv_lines_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_DOCUMENT", 1000)
    rows = b"text\none\n" + b"x" * 5000 + b'\ntwo\n"' + b"many\n" * 400 + b'"\n'
    (tmp_path / "a.csv").write_bytes(rows)
    found = raws(tmp_path)
    assert good(found)[:2] == [b"one", b"two"]
    assert reasons(found)[:2] == ["broken row"] * 2
    (tmp_path / "b.csv").write_bytes(b"x" * 5000)
    assert reasons(raws(tmp_path / "b.csv")) == ["broken header"]


def test_a_compressed_parquet_file(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), table)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(table.getvalue()))
    (tmp_path / "b.parquet").write_bytes(table.getvalue()[:-9])
    (tmp_path / "c.parquet.zst").write_bytes(zstandard.compress(table.getvalue())[:-9])
    found = raws(tmp_path)
    assert good(found) == DOCUMENTS and reasons(found) == ["unreadable"] * 2
    monkeypatch.setattr(streams, "MOST_SPOOLED", 1000)
    (raw,) = raws(tmp_path / "a.parquet.gz")
    assert "more than" in raw.problem


def test_compressed_token_files(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "CHUNK", 64)
    docs = [[n % 50000, 7, 8] * (n % 30 + 1) for n in range(200)]
    stream = np.array([i for d in docs for i in [*d, 50256]], "<u2").tobytes()
    for name in ("train", "val"):
        (tmp_path / f"{name}.bin.gz").write_bytes(gzip.compress(stream))
    np.savez(tmp_path / "c.npz", np.array([i for d in docs for i in [*d, 50256]]))
    (tmp_path / "c.npz.xz").write_bytes(lzma.compress((tmp_path / "c.npz").read_bytes()))
    for name, split in (("train.bin.gz", "train"), ("val.bin.gz", "eval"), ("c.npz", ""), ("c.npz.xz", "")):
        found = raws(tmp_path / name)
        assert [raw.data.tolist() for raw in found] == docs and {raw.split for raw in found} == {split}
        assert {raw.kind for raw in found} == {"tokens"} and {raw.data.dtype for raw in found} == {np.dtype("u4")}
    (tmp_path / "odd.bin.gz").write_bytes(gzip.compress(stream + b"x"))
    with pytest.raises(UserError, match="no whole number"):
        raws(tmp_path / "odd.bin.gz")


@pytest.mark.parametrize("chunk", [1, 5, 7, 64, 1000])
def test_the_borders_of_chunks_do_not_matter(chunk):
    typed, draw = readers.TEXT_SEPARATOR.tolist(), np.random.default_rng(chunk)
    ids: list[int] = []
    for length in [0, 1, 39, 40, 41, 43, 46, 47, 48, 80, 81, 200, *draw.integers(0, 99, 50).tolist()]:
        ids += [*draw.integers(0, 20, length).tolist(), *(typed if length % 2 else [50256])]
    ids += typed[:-1]
    expected, start, at = [], 0, 0
    while at <= len(ids):  # one id after the other
        ends = next((len(mark) for mark in (typed, [50256]) if ids[at : at + len(mark)] == mark), 0)
        if ends or at == len(ids):
            expected += [(first, ids[first : min(first + 40, at)]) for first in range(start, at, 40)]
            start = at = at + max(ends, 1)
        else:
            at += 1
    chunks = (np.array(ids[n : n + chunk]) for n in range(0, len(ids), chunk))
    found = token_files._documents(chunks, longest=40, typed=True)
    assert [(at, document.tolist()) for at, document in found] == expected


def test_broken_npz_archives(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(50))
    os.rename(tmp_path / "a.npy", tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", np.arange(5000), np.arange(50))
    data = bytearray((tmp_path / "b.npz").read_bytes())
    (tmp_path / "c.npz").write_bytes(data[: len(data) // 2])
    data[3000] ^= 1  # within the first array: its sum does not agree
    (tmp_path / "b.npz").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("notes.txt", "no array")
        archive.writestr("short.npy", npy_header("(1000000000000,)", "<i8"))
        for name, array in (("float", np.ones(3)), ("table", np.ones((3, 3), int)), ("below", np.array([1, -1]))):
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, array)
    found = raws(tmp_path)
    problems = [(Path(raw.where).name, raw.problem.partition(" (")[0]) for raw in found if raw.problem]
    nothing = "not a list of token ids"
    assert problems == [
        ("a.npz", "unreadable"), ("b.npz, array arr_0", "unreadable"), ("c.npz", "unreadable"),
        ("d.npz, array notes.txt", nothing), ("d.npz, array short", "unreadable"), ("d.npz, array float", nothing),
        ("d.npz, array table", nothing), ("d.npz, array below", nothing),
    ]  # fmt: skip
    assert [raw.data.tolist() for raw in found if raw.where.startswith(f"{tmp_path}/b.npz, array arr_1")] == [
        list(range(50))
    ]


def npy_header(shape: str, kind: str) -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.txt", "a.bin", "a.csv", "a.parquet", "a.tar", "a.txt.gz", "a.jsonl.zst"]
)
def test_a_file_that_is_gone_is_reported(tmp_path, monkeypatch, name):
    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 10)
    (tmp_path / name).write_bytes(as_json(DOCUMENTS)[:100])
    units = sources.plan(sources.find([str(tmp_path)]).sources)
    (tmp_path / name).unlink()
    for unit in units:
        (raw,) = readers.read(unit)
        assert raw.problem.startswith("unreadable (") and raw.where == str(tmp_path / name)


def test_an_encode_counts_faults_and_goes_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(
        gzip.compress(tar([(f"{n}.txt", d.encode()) for n, d in enumerate(DOCUMENTS)]))[:-9]
    )
    (folder / "b.txt.zst").write_bytes(zstandard.compress(NOISE)[:-9])
    (folder / "c.npz").write_bytes(b"nonsense")
    (folder / "d.txt.gz").write_bytes(gzip.compress(b"a text that is long enough to be kept") + b"garbage")
    result = run(folder, tmp_path / "out", split="none", rules=Rules(minimum_size=5))
    counts = {reason: entry["count"] for reason, entry in result.dropped.items()}
    assert counts == {"archive ends early": 1, "unreadable": 2, "garbage behind the end": 1}
    assert result.totals("train")["records"] == len(DOCUMENTS) + 1


@pytest.mark.parametrize("mark", [True, False])
def test_a_large_utf16_text_is_encoded_piece_by_piece(tmp_path, monkeypatch, mark):
    from tfgpt.data import sources

    for module in (sources, readers):
        monkeypatch.setattr(module, "PIECE", 4000)
    text = "".join(f"line {n} of a text — naïve 中\n" for n in range(2000))
    (tmp_path / "a.txt").write_bytes(text.encode("utf-16" if mark else "utf-16-le"))
    rules = Rules(fix_text=False, encoding="utf-8" if mark else "utf-16-le", minimum_size=1)
    result = run(tmp_path / "a.txt", tmp_path / "out", rules=rules, split="none", drop_duplicates=False)
    assert result.dropped == {} and result.totals("train")["text_bytes"] == len(text.encode())
    assert result.totals("train")["records"] > 5
