"""Where the time of a run goes: to steps, to waiting for data, to compiling, evaluating and saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

KINDS = ("step", "data", "compile", "eval", "save")


class Stopwatch:
    """Seconds by kind since the last `lap`, and seconds since the start."""

    def __init__(self) -> None:
        self.started = self.lap_started = time.monotonic()
        self.kinds = dict.fromkeys(KINDS, 0.0)

    def add(self, kind: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self.kinds[kind] += seconds

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """Count the time that the block takes."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - started)

    def lap(self) -> dict[str, float]:
        """Seconds by kind since the last lap."""
        found = {kind: round(seconds, 6) for kind, seconds in self.kinds.items()}
        self.kinds = dict.fromkeys(KINDS, 0.0)
        self.lap_started = time.monotonic()
        return found

    @property
    def since_lap(self) -> float:
        return time.monotonic() - self.lap_started

    @property
    def total(self) -> float:
        return time.monotonic() - self.started
