"""Killed or stopped at any moment, the same command goes on and the result is that of a straight run."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tfgpt

ROOT = str(Path(tfgpt.__file__).resolve().parents[1])
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")


@pytest.fixture
def archives(tar, tmp_path):
    for month in ("04", "05"):
        members = [(f"{n}-{month}.html", b"<p>story %d of month %s</p>" % (n, month.encode())) for n in range(60)]
        members[20:20] = [("20-04.html", b"a name that comes twice"), ("empty.html", b" "), ("bad.html", b"%PDF")]
        tar(tmp_path / f"RS_2017-{month}.tar.xz", members, "w:xz")
    return [str(tmp_path / f"RS_2017-{month}.tar.xz") for month in ("04", "05")]


@pytest.fixture
def start(own_engines, archives, tmp_path):
    """Starts the command as a process of its own; its workers note their numbers in tmp_path/pids."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "PIDS": str(tmp_path / "pids")}
    started = []

    def start(output, engine="slow"):
        command = [sys.executable, "-m", "tfgpt", "extract", *archives, "--output", str(tmp_path / output)]
        command += ["--engine", f"{own_engines}:{engine}", "--chunk_size", "4", "--processes", "2"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def result(root: Path):
    """Texts, and what the journal says of each page: all that a later run or a user can see."""
    texts = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.suffix == ".txt"}
    outcomes = {}
    for line in (root / ".extract/journal.jsonl").read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "pages" in entry:
            digests = base64.b64decode(entry["pages"])
            for n, outcome in enumerate(entry["outcomes"]):
                key = (entry["place"], digests[8 * n : 8 * n + 8])
                assert key not in outcomes, "a page was recorded twice"
                outcomes[key] = outcome
    return texts, outcomes


def alive(pid: int) -> bool:
    """Whether a process still runs (one that has ended but was not waited for does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc").exists()


def workers_are_gone(tmp_path, within=6.0) -> bool:
    pids = {int(line) for line in (tmp_path / "pids").read_text().split()} if (tmp_path / "pids").exists() else set()
    until = time.monotonic() + within
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def pages_seen(tmp_path) -> int:
    """How many pages all runs so far have begun."""
    path = tmp_path / "pids"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again_ends_as_a_straight_run(start, tmp_path):
    straight = start("straight")
    said, _ = straight.communicate(timeout=60)
    assert straight.returncode == 0
    expected = result(tmp_path / "straight")
    assert len(expected[0]) == 122 and sorted(expected[1].values()).count("e") == 2

    kills = 0
    for more in (1, 5, 12, 18, 3, 25):
        process, before = start("killed"), pages_seen(tmp_path)
        while process.poll() is None and pages_seen(tmp_path) < before + more:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        assert workers_are_gone(tmp_path)
    with open(tmp_path / "killed/.extract/journal.jsonl", "ab") as stream:
        stream.write(b'{"place":0,"pages":"AAAA')  # a line that a power cut left half written
    last = start("killed")
    said, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert kills >= 5 and "122 texts kept, 2 pages without text, 2 failed" in said and "by earlier runs" in said
    assert result(tmp_path / "killed") == expected
    assert not list((tmp_path / "killed").rglob("*tmp*")) and not list((tmp_path / "killed/.extract/scratch").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order_and_nothing_is_lost(number, start, tmp_path):
    process = start("out")
    while pages_seen(tmp_path) < 12:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "the same command goes on" in errors and "Traceback" not in errors
    assert workers_are_gone(tmp_path)
    texts, outcomes = result(tmp_path / "out")
    # Every page that was finished and collected is in the journal, the open chunk too.
    assert 6 <= len(outcomes) < 124 and list(outcomes.values()).count("k") <= len(texts)


def test_workers_notice_that_their_parent_was_killed(start, tmp_path):
    process = start("out", engine="waits")  # busy with a page, they do not see their standard input close
    while pages_seen(tmp_path) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert workers_are_gone(tmp_path, within=3)


def test_a_worker_that_hangs_in_c_code_is_ended_by_the_kernel():
    # With the interpreter's lock held no thread can look for the parent; after the parent's death only this is left.
    program = "import re; from tfgpt.extract import worker; worker._arm(0.5); re.match('(a+)+$', 'a' * 64 + 'b')"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": ROOT}, timeout=20)
    assert done.returncode == -signal.SIGALRM
