"""What can break while the server runs, in words for who asked, and how soon a process that fell is started again."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tfgpt.errors import Failure, UserError

A, B = TypeVar("A"), TypeVar("B")
STEADY = 60.0  # seconds: a process that ends after that is no part of a row of falls
FIRST, LONGEST = 5.0, 300.0  # seconds of rest before the second start of a row, and the most


class Broken(Failure):
    """What is ours went wrong with one request; all others go on."""


class Ended(Failure):
    """The process of a model has ended, and all of its texts with it."""

    after = 1


class Resting(Failure):
    """A model whose process falls again and again; `after` says when it is tried next, in seconds."""

    after = 1


@dataclass
class Falls:
    """How often a model's process has ended by itself, one soon after the other.

    The first time it is started again at once. If that did not help, each start waits twice as long as the one before.
    """

    row: int = 0
    total: int = 0
    until: float = 0.0
    down: bool = False  # from a fall until the model is there again

    def add(self, lived: float) -> float:
        """One more, of a process that was good for `lived` seconds; returns how long to wait before the next."""
        self.row = self.row + 1 if lived < STEADY else 1
        self.total, self.down = self.total + 1, True
        pause = 0.0 if self.row == 1 else min(LONGEST, FIRST * 2.0 ** (self.row - 2))
        self.until = time.monotonic() + pause
        return pause

    @property
    def left(self) -> float:
        """Seconds until it may be started."""
        return max(0.0, self.until - time.monotonic())

    def resting(self, key: str) -> Resting:
        """For who asks in the meantime."""
        error = Resting(
            f'the process of model "{key}" has ended {self.row} times in a row',
            fix="see the server's log, ask again later",
        )
        error.after = math.ceil(self.left) or 1
        return error


def words(error: BaseException) -> str:
    """What an error says, on one line."""
    said = " ".join(str(error).split())
    return type(error).__name__ + (f": {said:.200}" if said else "")


def place(error: BaseException) -> str:
    """The error's kind and where it came from, for the log: its words may hold what somebody wrote."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where


def guarded(f: Callable[[A], B], what: str) -> Callable[[A], B]:
    """`f`, whose unforeseen errors become those of one request."""

    def call(given: A) -> B:
        try:
            return f(given)
        except UserError:
            raise
        except Exception as error:
            raise Broken(f"{what} failed: {words(error)}") from error

    return call
