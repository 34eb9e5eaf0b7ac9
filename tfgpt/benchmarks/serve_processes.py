"""Servers as processes of their own: started, waited for, weighed with all of their children, and ended whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tfgpt.errors import Failure

PATIENCE = 300  # seconds for a server to load its model
SETTLING = 60  # seconds, at most


@dataclass
class Running:
    """A server that answers."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    host: str = ""
    port: int = 0

    def failed(self, what: str) -> Failure:
        """What went wrong, with the end of what the server said."""
        said = self.log.read_text("utf-8", "replace").strip().splitlines()[-3:]
        return Failure(f"{self.name} {what}", where=" | ".join(said) or "it said nothing")

    def wait(self) -> None:
        """Until it says where it listens, and is ready there."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise self.failed(f"ended with exit code {self.process.returncode}")
            if found := re.search(r"serving on (http://\S+)", self.log.read_text("utf-8", "replace")):
                place = urlsplit(found[1])
                self.host, self.port = place.hostname or "", place.port or 0
                if _answers(f"{found[1]}/ready"):
                    return
            time.sleep(0.1)
        raise self.failed(f"is not ready after {PATIENCE} seconds")

    def settle(self) -> None:
        """Until it has nothing left to do of what a start brings: servers are measured that have been up for a while."""
        end, before, quiet = time.monotonic() + SETTLING, cpu_seconds(self.process.pid), 0
        while quiet < 2 and time.monotonic() < end:
            time.sleep(0.5)
            now = cpu_seconds(self.process.pid)
            quiet = quiet + 1 if now - before < 0.05 else 0
            before = now


@contextmanager
def serving(name: str, command: list[str], log: Path, *, threads: int) -> Iterator[Running]:
    """A server on the CPU, for as long as the context lasts."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "-1",  # the CPU is compared; a GPU would be another benchmark
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with open(log, "wb") as stream:
        # A group of its own: nothing of it is left behind, and Ctrl-C reaches it through us alone.
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        running = Running(name, process, log)
        running.wait()
        running.settle()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:  # it grows while we read
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                pass  # it has just ended
    return found


def peak_bytes(pid: int) -> int | None:
    """The most memory that each process of a tree ever held, summed: an upper bound. None where the system does not tell."""
    peaks = []
    for one in tree(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        peaks += [int(kb) * 1024 for kb in re.findall(r"^VmHWM:\s*(\d+)", status, re.M)]
    return sum(peaks) if peaks else None


def cpu_seconds(pid: int) -> float:
    """Processor time of a tree of processes so far; 0 where the system does not tell."""
    ticks = 0
    for one in tree(pid):
        try:
            # The name, in brackets, may hold anything; user and system time are the 14th and 15th entry.
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
