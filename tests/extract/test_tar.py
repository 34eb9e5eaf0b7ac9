"""The tar reader against archives that tarfile (and tar itself, where it is there) writes."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.extract.streams import Damage
from tfgpt.extract.tar import LONGEST_HEADER, Reader, is_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
MEMBERS = [
    ("1.html", b"one"),
    ("empty.html", b""),
    ("d" * 60 + "/" + "e" * 60 + ".html", b"x" * 512),
    ("4.txt", b"y" * 5000),
]


def contents(data: bytes, max_bytes: int = 1 << 40) -> list[tuple[str, bytes]]:
    reader = Reader(io.BytesIO(data), max_bytes=max_bytes)
    return [(entry.name, reader.read(entry.size)) for entry in reader.entries() if entry.refused is None]


@pytest.mark.parametrize("form", FORMATS)
def test_reads_what_tarfile_writes(form, tar, tmp_path):
    data = tar(tmp_path / "a.tar", MEMBERS, format=FORMATS[form]).read_bytes()
    assert contents(data) == MEMBERS


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_and_any_unicode(form, tar, tmp_path):
    members = [
        ("ж" * 150 + ".html", b"long"),
        ("a" * 3000 + ".html", b"longer"),
        ("日本/" * 30 + "x.html", b"deep"),
        ("z.html", b"after"),
    ]
    data = tar(tmp_path / "a.tar", members, format=FORMATS[form]).read_bytes()
    assert contents(data) == members


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abж/. ", min_size=1, max_size=130).map("x{}x".format), st.binary(max_size=1500)), max_size=5
    )
)
def test_any_archive_reads_as_tarfile_reads_it(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert contents(buffer.getvalue()) == expected


def test_members_that_are_not_read_are_passed_over(tar, tmp_path):
    data = tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    reader = Reader(io.BytesIO(data), max_bytes=1 << 40)
    assert [entry.name for entry in reader.entries()] == [name for name, _ in MEMBERS]


def test_links_and_devices_are_refused_by_name(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            info = tarfile.TarInfo("x.html")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("real.html"))
    with open(path, "rb") as stream:
        found = [(entry.name, entry.refused) for entry in Reader(stream, max_bytes=1 << 40).entries()]
    kinds = ["a symbolic link", "a hard link", "a device", "a device", "a pipe"]
    assert found == [("x.html", kind) for kind in kinds] + [("x.html", ""), ("real.html", None)]


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_of_gnu_tar_do_not_derail_the_reader(form, tmp_path):
    with open(tmp_path / "a-sparse.html", "wb") as stream:
        for hole in range(40):
            stream.seek(hole * 100_000)
            stream.write(b"data")
    (tmp_path / "b.html").write_bytes(b"after")
    made = subprocess.run(
        ["tar", "-S", f"--format={form}", "-cf", "s.tar", "a-sparse.html", "b.html"], cwd=tmp_path, capture_output=True
    )
    if made.returncode:
        pytest.skip("this tar program is not GNU's")
    data = (tmp_path / "s.tar").read_bytes()
    assert contents(data) == [("b.html", b"after")]


def test_every_cut_is_noticed_and_what_came_before_is_kept(tar, tmp_path):
    data = tar(tmp_path / "a.tar", [(f"{n}.html", bytes([65 + n]) * 700) for n in range(4)]).read_bytes()
    for cut in range(0, 4 * 1536 + 1, 256):
        reader = Reader(io.BytesIO(data[:cut]), max_bytes=1 << 40)
        got = []
        with pytest.raises(Damage, match=f"at byte {cut} of"):
            for entry in reader.entries():
                got.append(reader.read(entry.size))
        assert got == [bytes([65 + n]) * 700 for n in range(len(got))]
        assert len(got) == sum(cut >= n * 1536 + 512 + 700 for n in range(4))


def test_a_damaged_header_in_the_middle_is_no_quiet_end(tar, tmp_path):
    data = bytearray(tar(tmp_path / "a.tar", [(f"{n}.html", b"x" * 100) for n in range(5)]).read_bytes())
    data[2 * 1024 + 20] ^= 255
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        assert len(archive.getmembers()) == 2  # what the standard library makes of it: no error at all
    with pytest.raises(Damage, match=r'damaged tar header .* after member "1.html"'):
        contents(bytes(data))


def test_more_archives_after_the_end_are_not_lost_in_silence(tar, tmp_path):
    data = tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    with pytest.raises(Damage, match="more data follows"):
        contents(data + data)


def test_a_name_of_gigabytes_is_refused_in_little_memory():
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, LONGEST_HEADER + 1
    bomb = info.tobuf(tarfile.GNU_FORMAT) + bytes(4 * LONGEST_HEADER)
    tracemalloc.start()
    try:
        with pytest.raises(Damage, match="a name of"):
            contents(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize(
    "record", [b"99999 path=x\n", b"path=x\n", b"8 pathx\n", b"0 =\n", b"12 size=-44\n", b"9" * 5000]
)
def test_damaged_extended_headers_are_damage(record):
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    body = record + bytes(-len(record) % 512)
    page = tarfile.TarInfo("x.html").tobuf()
    with pytest.raises(Damage):
        contents(info.tobuf() + body + page + bytes(1024))


def test_the_bound_on_the_unpacked_size_holds(tar, tmp_path):
    data = tar(tmp_path / "a.tar", [("1.html", b"x" * 1000), ("2.html", b"y" * 100_000)]).read_bytes()
    with pytest.raises(Damage, match="more than 50000 bytes .--max_archive_bytes"):
        contents(data, max_bytes=50_000)
    assert len(contents(data, max_bytes=len(data))) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_any_damage_ends_in_damage_or_in_an_end(form, tar, tmp_path):
    members = [("ж" * 50 if form == "ustar" else "ж" * 150, b"one"), ("2.html", b"y" * 600), ("3.html", b"z" * 10)]
    whole = tar(tmp_path / "a.tar", members, format=FORMATS[form]).read_bytes()[:6144]
    chance = random.Random(form)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b"\0\xff 0179=xLSg")
        # A header with a right checksum over wrong fields is what a plain flip can never reach.
        if chance.random() < 0.5:
            start = 512 * chance.randrange(len(data) // 512)
            data[start + 124 : start + 136] = chance.choice(
                [b"77777777777\0", b"\xff" * 12, b"00000000009\0", b"\x80" + b"\x7f" * 11]
            )
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
        try:
            for entry in (reader := Reader(io.BytesIO(bytes(data)), max_bytes=1 << 40)).entries():
                assert entry.size >= 0
                if entry.size < 10_000:
                    reader.read(entry.size)
        except Damage as damage:
            assert "at byte" in str(damage)


@pytest.mark.parametrize("head", [b"", b"<html>" * 100, b"\xff" * 512, b"x" * 511])
def test_pages_are_no_archives(head):
    assert not is_tar(head[:512])
