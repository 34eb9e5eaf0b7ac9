"""What every long job uses: locks, signals and progress, with real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tfgpt import locks, progress
from tfgpt.errors import Interrupted, UserError
from tfgpt.machine import cores
from tfgpt.progress import Progress, clock
from tfgpt.signals import StopRequest

HOLD = """
import sys, time
from pathlib import Path
from tfgpt.locks import folder_lock
with folder_lock(Path(sys.argv[1]), purpose="a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=f"process {holder.pid} on "),
        locks.folder_lock(tmp_path / "lock", purpose="a test"),
    ):
        pass
    holder.kill()
    holder.wait()
    with locks.folder_lock(tmp_path / "lock", purpose="a test"):
        assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()


def test_a_lock_on_a_file_that_is_gone_is_no_lock(tmp_path, monkeypatch):
    path, honest = tmp_path / "lock", locks.take

    def removed_meanwhile(descriptor):
        path.unlink()
        return honest(descriptor)

    monkeypatch.setattr(locks, "take", removed_meanwhile)
    with pytest.raises(UserError, match="just ended"), locks.folder_lock(path, purpose="a test"):
        pass


def test_a_signal_is_answered_between_two_steps():
    steps = []
    with pytest.raises(Interrupted) as caught, StopRequest("stopped") as stop:
        for step in range(3):
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            steps.append(step)  # the step during which it came is finished
            stop.check()
    assert steps == [0, 1] and caught.value.exit_code == 143


def test_a_second_signal_acts_at_once():
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest("stopped"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


def test_without_a_terminal_progress_is_plain_lines(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("encode", total=10_000_000) as bar:
        bar.update(1_000_000)
        now[0] += 6
        bar.update(3_000_000)
    assert capsys.readouterr().err == "encode   40 %  4.0 MB of 10.0 MB  666.7 kB/s  0:09 left\n"


def test_a_resumed_job_counts_its_rate_from_where_it_began(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Progress("encode", total=100, initial=50, unit="B")
    now[0] = 5.0
    bar.done += 25
    assert bar.line() == "encode   75 %  75 B of 100 B  5 B/s  0:05 left"


@pytest.mark.parametrize(
    "seconds, words", [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (90061, "25:01:01"), (float("inf"), "?")]
)
def test_clock(seconds, words):
    assert clock(seconds) == words


def test_cores_respect_what_this_process_may_use():
    command = [sys.executable, "-c", "from tfgpt.machine import cores; print(cores())"]
    assert int(subprocess.run(command, capture_output=True, text=True).stdout) == cores()
    if hasattr(os, "sched_setaffinity"):
        one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from tfgpt.machine import cores; print(cores())"
        assert subprocess.run([sys.executable, "-c", one], capture_output=True, text=True).stdout == "1\n"
