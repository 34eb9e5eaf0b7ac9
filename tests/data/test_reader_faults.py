"""Broken, cut, foreign and hostile input: nothing is lost in silence, nothing ends the job, memory stays bounded."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from tests.data.conftest import run
from tfgpt.data import archives, decompression, documents, readers, sources, streams, tables, token_files
from tfgpt.data.documents import Rules
from tfgpt.errors import UserError

DOCUMENTS = [f"document {n}: " + "naïve words, “quoted” and plain. " * (n % 5 + 2) for n in range(30)]
PACKERS = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}
# What the compressors make of text that hardly compresses, so that a cut anywhere falls into its middle.
NOISE = np.random.default_rng(0).integers(32, 127, 600_000).astype(np.uint8).tobytes()


def raws(path, **options) -> list[readers.Raw]:
    found = sources.find([str(path)], encoding=options.get("encoding", "utf-8"))
    units = sources.plan(found.sources)
    return [raw for unit in units for raw in readers.read(unit, **options)]


def good(found) -> list[bytes]:
    return [raw.data for raw in found if not raw.problem]


def reasons(found) -> list[str]:
    return [raw.problem.partition(" (")[0] for raw in found if raw.problem]


def tar(entries, **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def as_json(texts) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


# Compressed files


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99999])
def test_a_cut_text_is_no_document(tmp_path, kind, part):
    packed = PACKERS[kind](NOISE)
    (tmp_path / f"a.txt.{kind}").write_bytes(packed[: int(len(packed) * part)])
    found = raws(tmp_path)
    assert good(found) == [] and reasons(found) == ["unreadable"]


@pytest.mark.parametrize("kind", PACKERS)
def test_every_cut_of_a_small_file_is_noticed(kind):
    packed = PACKERS[kind](b"some text\n" * 100)
    for length in range(len(packed)):
        with pytest.raises(streams.UNREADABLE):
            decompression.finish(decompression.decompressed(io.BytesIO(packed[:length]), kind))
    whole = decompression.decompressed(io.BytesIO(packed), kind)
    assert whole.read() == b"some text\n" * 100
    decompression.finish(whole)


@pytest.mark.parametrize("kind", PACKERS)
def test_lines_before_a_cut_are_kept(tmp_path, kind):
    lines = [json.dumps({"text": NOISE[n : n + 2000].decode()}).encode() for n in range(0, len(NOISE), 2000)]
    packed = PACKERS[kind](b"\n".join(lines))
    (tmp_path / f"a.jsonl.{kind}").write_bytes(packed[: len(packed) // 2])
    found = raws(tmp_path)
    kept = [raw.rstrip(b"\n") for raw in good(found)]
    assert kept == lines[: len(kept)] and len(kept) > len(lines) // 4
    assert reasons(found) == ["unreadable"] and found[-1].problem


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("garbage", [b"garbage", b"\x00\x00x", b"\x1f", b"(\xb5/"])
def test_what_lies_before_garbage_is_kept(tmp_path, kind, garbage):
    (tmp_path / f"a.txt.{kind}").write_bytes(PACKERS[kind](NOISE) + garbage)
    (tmp_path / f"b.jsonl.{kind}").write_bytes(PACKERS[kind](as_json(DOCUMENTS)) + garbage)
    found = raws(tmp_path)
    assert good(found)[0] == NOISE and b"".join(good(found)[1:]) == as_json(DOCUMENTS)
    assert reasons(found) == ["garbage behind the end"] * 2


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("between", [b"", b"\0" * 4, b"\0" * 4096])
def test_several_streams_are_one_file(tmp_path, kind, between):
    parts = [b"first ", b"", NOISE, b"last"]
    (tmp_path / f"a.txt.{kind}").write_bytes(between.join(PACKERS[kind](part) for part in parts) + between)
    (raw,) = raws(tmp_path)
    assert raw.data == b"".join(parts) and not raw.problem


def test_zstandard_frames_of_every_make():
    plain = NOISE * 3 + b"\0" * 1_000_000
    skipped = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00xxxxx"
    for level, checksum, sized, long in itertools.product((1, 19), (True, False), (True, False), (True, False)):
        settings = zstandard.ZstdCompressionParameters.from_level(
            level, write_checksum=checksum, write_content_size=sized, window_log=24 if long else 17
        )
        packed = zstandard.ZstdCompressor(compression_params=settings).compress(
            plain if level == 1 else plain[:200_000]
        )
        expected = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        stream = decompression.decompressed(io.BytesIO(skipped + packed + skipped + packed), "zst")
        assert stream.read() == 2 * expected
        decompression.finish(stream)
        with pytest.raises(EOFError):
            decompression.decompressed(io.BytesIO(packed + packed[:-1]), "zst").read()


@pytest.mark.parametrize("kind", PACKERS)
def test_a_flipped_byte_is_not_fatal(tmp_path, kind):
    packed = bytearray(PACKERS[kind](NOISE))
    packed[len(packed) // 2] ^= 0x55
    (tmp_path / f"a.txt.{kind}").write_bytes(packed)
    (tmp_path / f"b.txt.{kind}").write_bytes(b"not compressed at all")
    (tmp_path / "c.txt").write_text("a good text")
    found = raws(tmp_path)
    # Zstandard writes no checksum unless asked, and a stored block then takes any byte.
    assert reasons(found)[-1] == "unreadable" and good(found)[-1] == b"a good text"
    if kind != "zst":
        assert reasons(found) == ["unreadable"] * 2


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_takes_little_memory(kind):
    packed = io.BytesIO(PACKERS[kind](bytes(64 << 20)))
    tracemalloc.start()
    decompression.finish(decompression.decompressed(packed, kind))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


# Archives


@pytest.mark.parametrize("kind", ["", "gz", "xz", "zst"])
def test_a_cut_archive_says_so_and_keeps_whole_members(tmp_path, kind):
    entries = [(f"{n:03}.txt", NOISE[n * 7000 : n * 7000 + 6800]) for n in range(80)]
    packed = PACKERS.get(kind, bytes)(tar(entries))
    path = tmp_path / ("a.tar" + (f".{kind}" if kind else ""))
    for cut in (len(packed) // 2, len(packed) // 2 // 512 * 512, 512 * 15 * 40):
        path.write_bytes(packed[:cut])
        found = raws(path)
        kept = good(found)
        assert kept == [data for _, data in entries[: len(kept)]] and len(kept) > 10
        assert reasons(found)[-1] == "archive ends early"


def test_a_damaged_header_is_not_the_end(tmp_path):
    data = bytearray(tar([(f"{n}.txt", b"some text") for n in range(5)]))
    data[2048 + 100] ^= 1  # the third of five headers
    (tmp_path / "a.tar").write_bytes(data)
    found = raws(tmp_path)
    assert len(good(found)) == 2 and reasons(found) == ["archive ends early"]
    assert "bad checksum at byte 2048" in found[-1].problem


def test_an_archive_without_end_mark_or_with_more_behind_it(tmp_path):
    whole = tar([("a.txt", b"some text")])
    (tmp_path / "a.tar").write_bytes(whole[:1024])
    (tmp_path / "b.tar").write_bytes(whole + whole)
    (tmp_path / "c.tar").write_bytes(whole[: 1024 + 512])
    (tmp_path / "d.tar").write_bytes(b"")
    found = raws(tmp_path)
    assert good(found) == [b"some text"] * 3
    assert [Path(raw.where).name for raw in found if raw.problem] == ["a.tar", "b.tar", "d.tar"]


def test_the_sum_behind_an_archive_is_checked(tmp_path):
    packed = bytearray(gzip.compress(tar([("a.txt", b"some text")])))
    packed[-6] ^= 1  # in the CRC
    (tmp_path / "a.tar.gz").write_bytes(packed)
    assert reasons(raws(tmp_path)) == ["archive ends early"]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar([("a.txt", b"some text")])) + b"garbage")
    found = raws(tmp_path)
    assert good(found) == [b"some text"] and reasons(found) == ["garbage behind the end"]


@pytest.mark.parametrize("kind", PACKERS)
def test_a_broken_member_costs_no_other(tmp_path, kind):
    packed = PACKERS[kind](NOISE)
    entries = [
        ("a.txt", b"first"), (f"b.txt.{kind}", packed[:-20]), (f"c.txt.{kind}", b"nonsense"),
        (f"d.txt.{kind}", packed + b"xx"), ("e.parquet", b"nonsense"), (f"f.txt.{kind}", packed), ("g.txt", b"last"),
    ]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar(entries))
    found = raws(tmp_path)
    assert good(found) == [b"first", NOISE, NOISE, b"last"]
    broken = [(raw.where.split("::")[1], raw.problem.partition(" (")[0]) for raw in found if raw.problem]
    assert broken == [
        (f"b.txt.{kind}", "unreadable"), (f"c.txt.{kind}", "unreadable"),
        (f"d.txt.{kind}", "garbage behind the end"), ("e.parquet", "unreadable"),
    ]  # fmt: skip


def test_tables_in_archives(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), table)
    entries = [("a.csv", b"id,text\n1,one\n2,two\n"), ("b.tsv.gz", gzip.compress(b"id\ttext\n1,5\tthree\n"))]
    entries += [("c.parquet", table.getvalue()), ("d.jsonl", as_json(["four"])), ("e.bin", b"\0\0"), ("f.tar", b"x")]
    (tmp_path / "a.tar").write_bytes(tar(entries))
    found = raws(tmp_path)
    assert good(found)[:3] == [b"one", b"two", b"three"] and good(found)[3:-1] == DOCUMENTS
    assert reasons(found) == ["token ids in an archive"]


def sparse_tar(form: str) -> bytes:
    """A member of 3 GB that is one hole, as GNU tar writes it."""
    member = tarfile.TarInfo("hole.txt")
    if form == "pax":
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole.txt",
                              "GNU.sparse.realsize": str(3 << 30)}  # fmt: skip
        member.size = 512
        return member.tobuf(tarfile.PAX_FORMAT) + f"1\n{3 << 30}\n0\n".encode().ljust(512, b"\0")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % ((1 << 33) - 1, 0)
    header[483:495] = b"%011o\0" % (3 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_hole_is_not_read(tmp_path, form):
    (tmp_path / "a.tar").write_bytes(sparse_tar(form) + tar([("b.txt", b"some text")]))
    found = raws(tmp_path)
    assert reasons(found) == ["sparse file in an archive"] and good(found) == [b"some text"]


def test_links_and_folders_are_passed_by(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("x.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    assert raws(tmp_path) == []


def test_memory_does_not_grow_with_the_members():
    def peak(count: int) -> int:
        stream = io.BytesIO(tar([(f"{n}.txt", b"") for n in range(count)]))
        tracemalloc.start()
        assert sum(1 for _ in archives.members(stream)) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(3000) < peak(100) + 100_000


def test_a_name_of_megabytes_is_refused(tmp_path):
    data = tar([("a.txt", b"some text"), ("x" * (2 << 20) + ".txt", b"")], format=tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    found = raws(tmp_path)
    assert good(found) == [b"some text"] and reasons(found) == ["archive ends early"]


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
