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

# Small units, frequent commits and slow merging: a kill falls between, and into, many of them.
SLOWLY = """
import sys, time
from tfgpt.data import merger, sources, workers
merger.COMMIT_SECONDS, sources.UNIT_FILES, workers.SMALL_JOB = 0.02, 20, 0
add = merger.Merger.add
merger.Merger.add = lambda *arguments: (time.sleep(0.03), add(*arguments))
from tfgpt.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(texts, output):
    """`tfgpt encode` in a process of its own."""
    words = f"encode {texts} --tokenizer byte --output {output} --processes 2 --shard_mb 1".split()
    command = [sys.executable, "-c", SLOWLY, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder of text, and the straight result."""
    folder = tmp_path_factory.mktemp("kill")
    texts = write_texts(folder / "texts", 600, words=2400)
    process = start(texts, folder / "straight")
    assert process.wait(timeout=120) == 0, process.stderr.read().decode()
    return texts, contents(folder / "straight")


def progress(output) -> list[int]:
    """How far the committed state is."""
    try:
        return json.loads((output / ".encode" / "state.json").read_text()).get("done", [0, 0])
    except FileNotFoundError:
        return [0, 0]


def wait_for_work(process, output, before) -> bool:
    """Until this process has committed something, or has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if progress(output) != before:
            return True
        time.sleep(0.002)
    return False


@pytest.mark.slow
def test_killed_at_ten_random_moments(job, tmp_path):
    texts, expected = job
    output, draw = tmp_path / "out", random.Random()
    kills = resumed = finished = 0
    while kills < 10 or not finished:
        before = progress(output)
        process = start(texts, output)
        if kills < 10:
            # Two of the ten may fall into the start, the others fall into the work.
            if kills % 5 == 4:
                time.sleep(draw.uniform(0, 0.5))
            elif wait_for_work(process, output, before):
                time.sleep(draw.uniform(0, 0.3))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                resumed += progress(output) != [0, 0]
                continue
        assert process.wait(timeout=120) == 0, process.stderr.read().decode()
        assert contents(output) == expected
        finished += 1
        if kills < 10:
            shutil.rmtree(output)
    assert resumed >= 3, "the kills must fall into the work"


def test_terminated_politely(job, tmp_path):
    texts, expected = job
    process = start(texts, tmp_path / "out")
    assert wait_for_work(process, tmp_path / "out", [0, 0])
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err.decode()
    assert b"Traceback" not in err
    again = start(texts, tmp_path / "out")
    assert again.wait(timeout=120) == 0
    assert contents(tmp_path / "out") == expected


def test_workers_end_with_a_killed_parent(job, tmp_path):
    texts, _ = job
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
    texts, expected = job
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


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_while_workers_start(job, tmp_path, number, code):
    """Ctrl-C in a terminal, or what a batch system sends: the workers get it too, and must leave it to the parent."""
    texts, expected = job
    for pause in (0.0, 0.15, 0.3):
        process = start(texts, tmp_path / "out")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any("spawn_main" in _command(pid) for pid in _children(process.pid)):
            time.sleep(0.01)
        time.sleep(pause)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code and b"Traceback" not in err, err.decode()
    assert start(texts, tmp_path / "out").wait(timeout=120) == 0
    assert contents(tmp_path / "out") == expected
