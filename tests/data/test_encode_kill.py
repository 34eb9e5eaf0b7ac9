"""A real encode in a real process, killed for real: the same command goes on and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.data.conftest import contents, write_texts

SLOW_COMMITS = "import tfgpt.data.merger as m; m.COMMIT_SECONDS = 0.02; import tfgpt.data.sources as s; s.UNIT_FILES = 20; import tfgpt.data.workers as w; w.SMALL_JOB = 0; "
START = "import sys; from tfgpt.cli import main; sys.exit(main(sys.argv[1:]))"


def start(texts, output, *, processes="2"):
    """`tfgpt encode` with small units and frequent commits, so that a kill falls between many of them."""
    script = SLOW_COMMITS + START
    command = [
        "encode",
        str(texts),
        "--tokenizer",
        "byte",
        "--output",
        str(output),
        "--processes",
        processes,
        "--shard_mb",
        "1",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder of text, the straight result, and how long that took."""
    folder = tmp_path_factory.mktemp("kill")
    texts = write_texts(folder / "texts", 600, words=2400)
    began = time.monotonic()
    process = start(texts, folder / "straight")
    assert process.wait(timeout=120) == 0, process.stderr.read().decode()
    return texts, contents(folder / "straight"), time.monotonic() - began


@pytest.mark.slow
def test_killed_at_ten_random_moments(job, tmp_path):
    texts, expected, seconds = job
    draw = random.Random(5)
    kills = resumed = 0
    for _ in range(40):
        process = start(texts, tmp_path / "out")
        try:
            process.wait(timeout=draw.uniform(0.25, 1.1) * seconds if kills < 10 else 120)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            state = tmp_path / "out" / ".encode" / "state.json"
            resumed += state.exists() and json.loads(state.read_text())["done"] != [0, 0]
            kills += 1
            continue
        assert process.returncode == 0, process.stderr.read().decode()
        assert contents(tmp_path / "out") == expected
        if kills >= 10:
            break
        for path in (tmp_path / "out").iterdir():  # finished before its tenth kill: begin another one
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert kills >= 10 and resumed >= 3, "the kills must fall into the work, not only before it"


def test_terminated_politely(job, tmp_path):
    texts, expected, seconds = job
    process = start(texts, tmp_path / "out")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / ".encode" / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err.decode()
    assert b"Traceback" not in err
    again = start(texts, tmp_path / "out")
    assert again.wait(timeout=120) == 0
    assert contents(tmp_path / "out") == expected


def test_workers_end_with_a_killed_parent(job, tmp_path):
    texts, _, _ = job
    process = start(texts, tmp_path / "out")
    deadline = time.monotonic() + 60
    while not (children := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    children = _children(process.pid) or children
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children and not any(map(_alive, children))


def test_a_worker_that_dies_stops_the_job_and_loses_nothing(job, tmp_path):
    texts, expected, _ = job
    process = start(texts, tmp_path / "out")
    deadline = time.monotonic() + 60
    workers: list[int] = []
    while time.monotonic() < deadline and not workers:
        workers = [pid for pid in _children(process.pid) if "spawn_main" in _command(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"a worker process died" in err and b"Traceback" not in err
    again = start(texts, tmp_path / "out")
    assert again.wait(timeout=120) == 0 and contents(tmp_path / "out") == expected


def _command(pid: int) -> str:
    return subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout


def _children(pid: int) -> list[int]:
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in out.split()]


def _alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
