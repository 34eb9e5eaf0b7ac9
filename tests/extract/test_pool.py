"""Workers: every way a page can misbehave costs that page and nothing else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tfgpt.errors import Failure, Interrupted, UserError
from tfgpt.extract.pool import Pool, Task

posix = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX systems")


@pytest.fixture
def settings(own_engines, tmp_path):
    (tmp_path / "scratch").mkdir()
    return {
        "engine": f"{own_engines}:odd",
        "language": "en",
        "min_characters": 1,
        "timeout": 20,
        "max_memory": 2 << 30,
        "scratch": str(tmp_path / "scratch"),
    }


def results(pool, pages, folder) -> dict:
    for key, data in pages.items():
        pool.submit(Task(key, data, Path(folder) / f"{key}.txt"))
    found = [pool.result(lambda: None) for _ in pages]
    assert pool.pending == 0
    return {result.key: (result.outcome, result.reason) for result in found}


@posix
def test_no_page_takes_others_with_it(settings, tmp_path):
    pages = {
        "good": b"<p>text</p>",
        "crash": b"CRASH",
        "leave": b"LEAVE",
        "quit": b"QUIT",
        "memory": b"MEMORY",
        "deep": b"DEEP",
        "binary": b"%PDF-1.4",
        "network": b"NETWORK",
        "noise": b"NOISE",
        "empty": b"<p> </p>",
        "last": b"<p>last</p>",
    }
    with Pool(2, settings) as pool:
        found = results(pool, pages, tmp_path)
    assert found == {
        "good": ("k", ""),
        "crash": ("f", "the extractor crashed: SIGSEGV"),
        "leave": ("f", "SystemExit: 3"),
        "quit": ("f", "the extractor crashed: exit code 7"),
        "memory": ("f", "MemoryError: "),
        "deep": ("f", "RecursionError: maximum recursion depth exceeded"),
        "binary": ("f", "not text but binary data"),
        "network": ("f", "OSError: no network while extracting"),
        "noise": ("k", ""),
        "empty": ("e", ""),
        "last": ("k", ""),
    } | {"deep": found["deep"]}
    assert found["deep"][0] == "f" and found["deep"][1].startswith("RecursionError")
    assert (tmp_path / "noise.txt").read_text(encoding="utf-8") == "read ''"
    assert {path.stem for path in tmp_path.glob("*.txt")} == {"good", "noise", "last"}


def test_a_page_that_hangs_in_c_code_is_stopped_in_time(settings, tmp_path):
    started = time.monotonic()
    with Pool(1, {**settings, "timeout": 0.6}) as pool:
        found = results(pool, {"before": b"a", "hang": b"HANG", "after": b"b"}, tmp_path)
    assert found == {"before": ("k", ""), "hang": ("f", "timed out: 0.6 s"), "after": ("k", "")}
    assert time.monotonic() - started < 10


def test_workers_are_replaced_after_their_share_of_pages(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    engine = settings["engine"].replace(":odd", ":slow")
    with Pool(1, {**settings, "engine": engine}, pages=3) as pool:
        results(pool, {str(n): b"page" for n in range(9)}, tmp_path)
    pids = (tmp_path / "pids").read_text().split()
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_short_texts_and_lone_surrogates(settings, tmp_path):
    with Pool(1, {**settings, "min_characters": 5}) as pool:
        found = results(pool, {"four": b" four ", "five!": b"five!", "odd": b"\xed\xa0\x80 lone"}, tmp_path)
    assert found == {"four": ("e", ""), "five!": ("k", ""), "odd": ("k", "")}
    assert (tmp_path / "five!.txt").read_bytes() == b"five!"
    (tmp_path / "odd.txt").read_bytes().decode("utf-8")


def test_a_disk_that_cannot_be_written_stops_everything(settings, tmp_path):
    with Pool(1, settings) as pool:
        pool.submit(Task("a", b"text", tmp_path / "missing" / "a.txt"))
        with pytest.raises(Failure, match="cannot write: No such file") as caught:
            pool.result(lambda: None)
    assert "missing" in caught.value.where and "same command" in caught.value.fix


@pytest.mark.parametrize(
    ("engine", "kind", "said"),
    [("no_such_module:f", UserError, "cannot be imported"), ("broken_engine:f", Failure, "ZeroDivisionError")],
)
def test_an_engine_that_does_not_start_is_said_at_once(engine, kind, said, settings):
    Path("broken_engine.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(kind, match=said) as caught, Pool(3, {**settings, "engine": engine}):
        pass
    assert caught.value.exit_code == kind.exit_code


def test_leaving_kills_what_still_works(settings, tmp_path):
    started = time.monotonic()

    def check():
        if time.monotonic() - started > 0.5:
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted), Pool(2, settings) as pool:
        processes = [worker.process for worker in pool.workers if worker.process]
        pool.submit(Task("a", b"HANG", tmp_path / "a.txt"))
        pool.submit(Task("b", b"HANG", tmp_path / "b.txt"))
        while True:
            pool.result(check)
    assert time.monotonic() - started < 8
    assert all(process.poll() is not None for process in processes)
    assert all(worker.process is None for worker in pool.workers)
