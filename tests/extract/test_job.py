"""The whole way, from archives to texts and a journal, also through damage and repeated runs."""

from __future__ import annotations

import os
import shutil

import pytest

from tfgpt.errors import UserError
from tfgpt.extract import Limits, extract


def tree(root) -> dict[str, bytes]:
    """Every text under `root`."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.txt"))}


@pytest.fixture
def run(own_engines, tmp_path):
    def run(*paths, output="out", engine="odd", **options):
        name = engine if engine in ("newspaper", "trafilatura") else f"{own_engines}:{engine}"
        return extract(paths, tmp_path / output, engine=name, processes=2, **options)

    return run


@pytest.mark.parametrize("engine", ["newspaper", "trafilatura"])
def test_articles_of_two_months_and_a_folder(engine, run, tar, page, tmp_path):
    first = tar(tmp_path / "RS_2017-04_data.tar.xz", {f"{n}-ab.html": page(n) for n in range(3)}, "w:xz")
    second = tar(
        tmp_path / "RS_2017-05-1_data.tar.gz",
        {"0-cd.html": page(10), "1-cd.html": b"<html><body></body></html>"},
        "w:gz",
    )
    (tmp_path / "my site").mkdir()
    (tmp_path / "my site/story.html").write_bytes(page(20))
    summary = run(first, second, tmp_path / "my site", engine=engine)
    assert (summary.kept, summary.empty, summary.failed, summary.damaged) == (5, 1, 0, [])
    texts = tree(tmp_path / "out")
    assert list(texts) == [
        "RS_2017-04/0-ab.txt", "RS_2017-04/1-ab.txt", "RS_2017-04/2-ab.txt", "RS_2017-05/0-cd.txt", "my_site/story.txt",
    ]  # fmt: skip
    assert b"Paragraph 5 of story 20. The committee" in texts["my_site/story.txt"]
    assert not any(b"Subscribe" in text or b"All rights reserved" in text for text in texts.values())


def test_failures_are_counted_by_reason_with_examples(run, tar, tmp_path):
    members = {
        "1.html": b"fine",
        "2.html": b"CRASH",
        "3.html": b"x" * 5000,
        "4.html": b"CRASH",
        "5.jpg": b"",
        "6.html": b"DEEP",
    }
    summary = run(tar(tmp_path / "a.tar", members), limits=Limits(max_bytes=1000))
    assert (summary.kept, summary.failed) == (1, 4)
    assert summary.reasons == {"the extractor crashed": 2, "larger than 1000 bytes": 1, "RecursionError": 1}
    assert summary.skipped == {"not a page by its name": 1}
    assert dict(summary.examples)["2.html"] == "the extractor crashed: SIGSEGV"
    report = str(summary)
    assert "1 texts kept, 0 pages without text, 4 failed" in report and "e.g. 2.html: the extractor crashed" in report


def test_hostile_names_stay_inside(run, tar, tmp_path):
    names = ["../../etc/x.html", "/etc/y.html", "C:\\z.html", "..", "a/../../b.html", "con.html", "~root.html"]
    run(tar(tmp_path / "a.tar", [(name, b"text") for name in names]), output="o/u/t")
    everything = {path.relative_to(tmp_path).parts[:3] for path in tmp_path.rglob("*.txt")}
    assert everything == {("o", "u", "t")}
    assert len(tree(tmp_path / "o/u/t")) == 6  # ".." alone is no page by its name


def test_one_name_twice_and_one_month_in_two_archives(run, tar, tmp_path):
    one = tar(
        tmp_path / "RS_2017-04-1.tar",
        [("1.html", b"first"), ("1.html", b"second"), ("1.txt", b"third"), ("A.html", b"A"), ("a.html", b"a")],
    )
    two = tar(tmp_path / "RS_2017-04-2.tar", [("1.html", b"other archive"), ("2.html", b"two")])
    run(two)
    run(one, two)
    expected = {
        "1.txt": b"other archive", "2.txt": b"two", "1+2.txt": b"first", "1~2+2.txt": b"second", "1~3+2.txt": b"third",
        "A+2.txt": b"A", "a~2+2.txt": b"a",
    }  # fmt: skip
    assert tree(tmp_path / "out/RS_2017-04") == expected


@pytest.mark.parametrize("form", ["xz", "gz"])
def test_a_cut_archive_gives_what_comes_before_the_cut_and_others_go_on(form, run, tar, tmp_path):
    pages = [(f"{n}.html", os.urandom(300).hex().encode()) for n in range(300)]
    cut = tar(tmp_path / f"cut.tar.{form}", pages, f"w:{form}")
    other = tar(tmp_path / "other.tar", {"1.html": b"other"})
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    summary = run(cut, other)
    ((path, what),) = summary.damaged
    kept = tree(tmp_path / "out/cut")
    assert path == str(cut) and "of the unpacked archive, after member" in what
    assert any(f'"{last}.html"' in what for last in (len(kept) - 1, len(kept)))
    assert 100 < len(kept) < 250 and kept == {f"{n}.txt": pages[n][1] for n in range(len(kept))}
    assert tree(tmp_path / "out/other") == {"1.txt": b"other"}
    # The damage is told again by every run, until the archive is mended: then only the rest is done.
    assert run(cut, other).damaged
    cut.write_bytes(whole)
    summary = run(cut, other)
    assert not summary.damaged and summary.kept == 301 and summary.earlier == len(kept) + 1
    assert tree(tmp_path / "out/cut") == {f"{n}.txt": data for n, (_, data) in enumerate(pages)}


def test_a_second_run_does_nothing_twice_and_finds_what_is_new(run, tar, tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.html").write_bytes(b"page %d" % n)
    archive = tar(tmp_path / "a.tar", {"1.html": b"one"})
    run(folder, archive)
    (tmp_path / "out/pages/3.txt").write_bytes(b"touched by hand")
    (folder / "2a.html").write_bytes(b"new")
    (folder / "4.html").write_bytes(b"changed")
    summary = run(folder, archive)
    assert tree(tmp_path / "out/pages") == {
        "0.txt": b"page 0", "1.txt": b"page 1", "2.txt": b"page 2", "2a.txt": b"new", "3.txt": b"touched by hand",
        "4.txt": b"changed",
    }  # fmt: skip
    assert summary.earlier == 6


def test_a_page_that_lost_its_text_keeps_no_old_text(run, tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for name in ("crash", "empty", "large", "same"):
        (folder / f"{name}.html").write_bytes(b"text")
    run(folder, limits=Limits(max_bytes=100))
    assert len(tree(tmp_path / "out")) == 4
    (folder / "crash.html").write_bytes(b"CRASH")
    (folder / "empty.html").write_bytes(b"<p>")
    (folder / "large.html").write_bytes(b"x" * 101)
    run(folder, limits=Limits(max_bytes=100))
    assert tree(tmp_path / "out") == {"pages/same.txt": b"text"}


def test_nothing_is_left_behind_but_texts_and_the_journal(run, tar, tmp_path):
    run(tar(tmp_path / "a.tar", {f"{n}.html": b"text" for n in range(30)}))
    (tmp_path / "out/.extract/scratch/12345").write_bytes(b"left by a killed worker")
    run(tmp_path / "a.tar")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {f"a/{n}.txt" for n in range(30)} | {".extract/journal.jsonl", ".extract/lock"}


def test_mistakes_are_said_before_anything_is_created(run, tar, tmp_path):
    archive = tar(tmp_path / "a.tar", {"1.html": b"text"})
    for options, said in [
        ({"engine": "missing"}, "cannot be imported"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"min_characters": -1}, "min_characters must be at least 0"),
    ]:
        with pytest.raises(UserError, match=said):
            run(archive, **options)
    with pytest.raises(UserError, match="processes must be at least 1"):
        extract([archive], tmp_path / "out", processes=0)
    with pytest.raises(UserError, match="timeout must be above 0"):
        Limits(timeout=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="not a folder"):
        run(archive, output="a.tar")


def test_other_settings_on_the_same_output_are_refused(run, tar, tmp_path):
    archive = tar(tmp_path / "a.tar", {"1.html": b"text"})
    run(archive)
    with pytest.raises(UserError, match="min_characters was 1 and is now 9"):
        run(archive, min_characters=9)


def test_two_at_once_on_one_output_are_refused(run, tar, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    archive = tar(tmp_path / "a.tar", {"1.html": b"text"})
    run(archive)
    with open(tmp_path / "out/.extract/lock", "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="already running"):
            run(archive)
    shutil.rmtree(tmp_path / "out")
    assert run(archive).kept == 1
