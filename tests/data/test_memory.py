"""Memory stays bounded however large the input: measured over the process and its workers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.data.conftest import write_texts

PEAK = """
import resource, sys, threading, time, subprocess
from tfgpt.cli import main
import os
peak, stop = [0], threading.Event()
def watch():
    while not stop.is_set():
        pids = [os.getpid()] + [int(p) for p in subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout.split()]
        total = 0
        for pid in pids:
            try:
                total += int(open(f"/proc/{pid}/statm").read().split()[1]) * resource.getpagesize()
            except OSError:
                pass
        peak[0] = max(peak[0], total)
        time.sleep(0.05)
if __name__ == "__main__":
    thread = threading.Thread(target=watch)
    thread.start()
    code = main(sys.argv[1:])
    stop.set()
    thread.join()
    print("PEAK", peak[0])
    sys.exit(code)
"""


def peak_of(tmp_path, *arguments) -> int:
    script = tmp_path / "watched.py"
    script.write_text(PEAK)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split("PEAK ")[1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_large_jsonl_stays_under_a_gigabyte(tmp_path):
    """200 MB here; the peak does not grow with the input, as only batches of 4 MB are on their way at any time."""
    line = "the quick brown fox jumps over the lazy dog and says — naïvely — that it’s fine; "
    with open(tmp_path / "a.jsonl", "w", encoding="utf-8") as stream:
        for number in range(20_000):
            stream.write(json.dumps({"text": f"{number} " + line * 120}) + "\n")
    peak = peak_of(tmp_path, "encode", "a.jsonl", "--tokenizer", "byte", "--output", "one", "--processes", 2)
    assert peak < 1 << 30, f"{peak / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_small_files_stay_under_a_gigabyte(tmp_path):
    write_texts(tmp_path / "texts", 20_000, words=24)
    peak = peak_of(
        tmp_path, "encode", "texts", "--tokenizer", "byte", "--output", "out", "--minimum_size", 5, "--processes", 2
    )
    assert peak < 1 << 30, f"{peak / 1e6:.0f} MB"
