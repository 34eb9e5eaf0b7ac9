"""Tar archives that were cut, damaged or made to hurt: whole members are kept, and all else is said."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from tests.data.reading import DOCUMENTS, NOISE, PACKERS, as_json, good, raws, reasons, tar
from tfgpt.data import archives


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
