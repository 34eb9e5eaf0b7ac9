"""Finding pages in archives, folders and files."""

from __future__ import annotations

import gzip
import lzma
import os
import tarfile

import pytest

from tfgpt.errors import Problems, UserError
from tfgpt.extract.limits import Limits
from tfgpt.extract.sources import Unusable, discover
from tfgpt.extract.streams import Damage


def found(paths, **limits):
    """(member, group, content or why not) of every page."""
    rows = []
    for source in discover(paths):
        for page in source.pages(Limits(**limits), lambda amount: None):
            try:
                what = page.refused or page.read()
            except Unusable as reason:
                what = str(reason)
            rows.append((page.member, page.group, what))
    return rows


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_archives_go_by_content_and_by_month(mode, tar, tmp_path):
    path = tar(tmp_path / "RS_2017-04-1_data.xz", {"1-ab.html": b"one", "2-cd.txt": b"two"}, mode)
    assert found([path]) == [("1-ab.html", "RS_2017-04", b"one"), ("2-cd.txt", "RS_2017-04", b"two")]


def test_members_that_are_no_pages_are_named(tar, tmp_path):
    members = {
        "meta.json": b"{}",
        "x.HTM": b"x",
        "pic.jpg": b"",
        "wget/page": b"p",
        "x.html.gz": gzip.compress(b"packed"),
    }
    rows = found([tar(tmp_path / "a.tar", members)])
    assert [what for _, _, what in rows] == ["not a page by its name", b"x", "not a page by its name", b"p", b"packed"]


def test_a_folder_is_walked_in_order_with_its_archives(tar, tmp_path):
    root = tmp_path / "crawl"
    for name in ("b/2.html", "a/1.htm", "RS_2017-05/m.html", "a/no.css", ".hidden/h.html", "a/.extract/j.html"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "a/3.html.gz").write_bytes(gzip.compress(b"third"))
    tar(root / "b/old.tar", {"9.html": b"nine"})
    assert found([root]) == [
        ("9.html", "old", b"nine"),
        ("RS_2017-05/m.html", "RS_2017-05", b"RS_2017-05/m.html"),
        ("a/1.htm", "crawl", b"a/1.htm"),
        ("a/3.html.gz", "crawl", b"third"),
        ("b/2.html", "crawl", b"b/2.html"),
    ]


def test_single_files_of_any_name_and_the_same_one_once(tmp_path, monkeypatch):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/a.txt").write_bytes(b"A")
    (tmp_path / "pages/b").write_bytes(b"B")
    monkeypatch.chdir(tmp_path / "pages")
    assert found(["a.txt", tmp_path / "pages/b", "./a.txt"]) == [("a.txt", "pages", b"A"), ("b", "pages", b"B")]


def test_the_size_is_what_reading_takes(tar, tmp_path):
    tar(tmp_path / "a.tar.xz", {"1.html": os.urandom(300_000)}, "w:xz")
    (tmp_path / "b.html").write_bytes(b"x" * 1000)
    for source in discover([tmp_path]):
        counted = []
        for page in source.pages(Limits(), counted.append):
            page.read()
        assert sum(counted) == source.size() > 0


@pytest.mark.parametrize("where", ["member", "packed member", "file", "packed file"])
def test_pages_larger_than_allowed_are_refused_unread(where, tar, tmp_path):
    big, path = bytes(3_000_000), tmp_path / "big.html"
    if "member" in where:
        path = tar(
            tmp_path / "a.tar.gz",
            [("big.html", gzip.compress(big) if "packed" in where else big), ("2.html", b"2")],
            "w:gz",
        )
    else:
        path.write_bytes(lzma.compress(big) if "packed" in where else big)
    rows = found([path], max_bytes=1_000_000)
    assert rows[0][2] == "larger than 1000000 bytes"
    assert [what for _, _, what in rows[1:]] == ([b"2"] if "member" in where else [])


def test_a_bomb_of_an_archive_is_stopped(tmp_path, tar):
    path = tar(tmp_path / "bomb.tar.xz", [("1.html", b"one"), ("2.html", bytes(30_000_000)), ("3.html", b"3")], "w:xz")
    assert path.stat().st_size < 10_000
    rows = []
    with pytest.raises(Damage, match="unpacks to more than 5000000 bytes"):
        for page in discover([path])[0].pages(Limits(max_bytes=1000, max_archive_bytes=5_000_000), lambda amount: None):
            rows.append(page.member)
    assert rows == ["1.html", "2.html"]


def test_a_page_packed_in_damage_is_one_page_lost(tar, tmp_path):
    cut = gzip.compress(os.urandom(5000))[:3000]
    (tmp_path / "cut.html.gz").write_bytes(cut)
    rows = found([tar(tmp_path / "a.tar", {"cut.html.gz": cut, "fine.html": b"fine"}), tmp_path / "cut.html.gz"])
    assert [what[:11] for _, _, what in rows] == ["unreadable:", b"fine", "unreadable:"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_called_html_does_not_hold_us_up(tmp_path):
    os.mkfifo(tmp_path / "a.html")
    os.symlink(tmp_path / "nowhere", tmp_path / "b.html")
    os.symlink("/dev/zero", tmp_path / "c.html")
    (tmp_path / "d.html").write_bytes(b"D")
    rows = [what for _, _, what in found([tmp_path])]
    assert rows[0] == rows[2] == "neither a file nor a link to one"
    assert rows[1].startswith("unreadable:") and rows[3] == b"D"
    with pytest.raises(UserError, match="neither a file nor a folder"):
        discover([tmp_path / "a.html"])


def test_every_wrong_input_is_in_one_report(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(Problems) as caught:
        discover([tmp_path / "missing.tar", tmp_path / "a.zip", tmp_path / "nothing"])
    report = str(caught.value)
    for said in ("3 inputs", "missing.tar", "No such file", "a zip archive", "no HTML in this folder", "/*.txt"):
        assert said in report


def test_an_archive_too_damaged_to_open_goes_by_its_name(tmp_path):
    (tmp_path / "a.tar.xz").write_bytes(b"\xfd7zXZ\x00" + b"garbage" * 100)
    (tmp_path / "b.tar").write_bytes(b"garbage" * 100)
    for source in discover([tmp_path]) + discover([tmp_path / "a.tar.xz", tmp_path / "b.tar"]):
        assert source.kind == "archive"
        with pytest.raises(Damage):
            list(source.pages(Limits(), lambda amount: None))


def test_the_stamp_follows_the_archive(tar, tmp_path):
    path = tar(tmp_path / "a.tar", {"1.html": b"one"})
    before = discover([path])[0].stamp()
    os.utime(path, (1, 1))
    assert discover([path])[0].stamp() != before
    assert tarfile.is_tarfile(path)
