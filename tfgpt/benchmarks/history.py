"""What was measured before: a file of JSON lines, each a result of `tfgpt bench` with the day, machine, versions and commit.

>>> path = place("")                                    # doctest: +SKIP
>>> [record["bench"] for record in read(path)]          # doctest: +SKIP
['train', 'encode']
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from tfgpt import files
from tfgpt.errors import Failure, UserError
from tfgpt.machine import cores, memory, processor

Record = dict[str, Any]

NAME = "benchmarks/history.jsonl"
PACKAGES = ("tfgpt", "tensorflow", "keras", "numpy", "torch", "transformers", "ctranslate2", "keras-hub", "tiktoken")
GIT_SECONDS = 10


def place(given: str) -> Path:
    """The history's file: `given`, or the repository's own if that has a folder for it, or one for all of this user's."""
    if given:
        return Path(given)
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    if root is not None and (root / NAME).parent.is_dir():
        return root / NAME
    return files.cache_folder() / NAME


def check(path: Path) -> None:
    """Fail before an hour of measuring, and not after it, if nothing can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=str(path), fix="--save FILE names another") from error


def keep(path: Path, found: Record, *, asked: dict[str, object]) -> None:
    """Append one result, with what it was asked for and where it was measured, and say so."""
    append(path, found | {"asked": asked} | about())
    print(f"kept in {path}", file=sys.stderr)


def append(path: Path, record: Record) -> None:
    """One more line, in one write; a line that a killed process left unfinished does not spoil it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        torn = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read() == b"\n" else b"\n"
        file.write(torn + json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """All results, the oldest first; lines that are none are passed over with a word."""
    if not path.is_file():
        return []
    found, bad = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            assert isinstance(record["bench"], str)
            found.append(record)
        except (ValueError, KeyError, TypeError, AssertionError):
            bad.append(number)
    if bad:
        print(f"{path}: no result in line {', '.join(map(str, bad))}", file=sys.stderr)
    return found


def about() -> Record:
    """When, on what and with what."""
    found: Record = {
        "date": now(),
        "machine": machine(),
        "versions": versions(),
    }
    return found | ({"commit": at} if (at := commit()) else {})


def now() -> str:
    """The time as a history has it: 2026-11-21T23:54:00+00:00."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine() -> Record:
    """What must be alike for two results to be compared, and what system it is."""
    size = memory()
    return {
        "cores": cores(),
        "cpu": processor("model name") or platform.processor() or platform.machine(),
        "memory_gb": None if size is None else round(size / 1e9, 1),
        "system": platform.platform(terse=True),
    }


def where(record: Record) -> str:
    """What results must share to be compared: "2 cores, AMD EPYC"."""
    machine = record.get("machine", {})
    count = machine.get("cores", "?")
    return f"{count} core{'' if count == 1 else 's'}, {machine.get('cpu') or 'unknown processor'}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that take part, where they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def commit() -> str:
    """The commit of our own source, "+" behind it if the source has changed since; "" where it is in no repository."""
    package = Path(__file__).parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return ""  # installed into somebody's folder: the repository around it is not ours
    head = _git(package, "rev-parse", "--short=12", "HEAD") or ""
    return head + ("+" if head and _git(package, "status", "--porcelain", "--", ".") else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Listener:
    """Stands before a stream and remembers the last line that went through."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line, self._last = stream, "", ""

    def write(self, text: str) -> int:
        """Pass `text` on."""
        *whole, self._line = (self._line + text).split("\n")
        self._last = next((line for line in reversed(whole) if line.strip()), self._last)
        return self._stream.write(text)

    def found(self) -> Record:
        """What the last line says: each benchmark ends with one JSON object."""
        try:
            return json.loads(self._line.strip() or self._last)
        except ValueError:
            raise Failure("the benchmark did not end with its result, so nothing was kept") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def listening() -> Iterator[Listener]:
    """What is saved is what was printed: this hears it."""
    listener = Listener(sys.stdout)
    with redirect_stdout(listener):  # type: ignore[type-var]
        yield listener
