"""The lines of metrics.jsonl, however a run ended: broken ones are counted and passed over."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.errors import UserError

FILE = "metrics.jsonl"


def path_of(run: str) -> str:
    """The metrics file of a run folder; a path of the file itself is taken as it is."""
    return run if run.endswith(".jsonl") else files.join(run, FILE)


class Lines:
    """Iterates over the events of a run as dicts with a text `event`, a whole `step` and a number `time`.

    A process that was killed leaves half a line, a full disk may leave several: `broken` counts them.
    """

    def __init__(self, run: str) -> None:
        self.run, self.broken = run, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            stream = files.open_read(path_of(self.run))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise UserError(
                "no training run is here: there is no metrics.jsonl",
                where=self.run,
                nearest=_runs_inside(self.run),
                fix="name the folder of a run, which its configuration calls model_path",
            ) from None
        with stream:
            for raw in stream:
                line = _parse(raw)
                if line is not None:
                    yield line
                elif raw.strip():
                    self.broken += 1


def number(value: Any) -> float:
    """`value` as a float; JSON has no NaN, so "NaN" and "Infinity" stand for them. What is no number is NaN.

    >>> number("Infinity"), number(3), number(None)
    (inf, 3.0, nan)
    """
    if isinstance(value, bool):
        return math.nan
    if isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity"):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.nan


def numbers(values: Any) -> np.ndarray:
    """A list of a line as float64 [n], each entry as `number` reads it."""
    if not isinstance(values, list):
        return np.empty(0)
    try:
        array = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.empty((0, 0))
    # Nested lists and the like are nobody's losses; entry by entry they become NaN.
    return array if array.ndim == 1 else np.array([number(value) for value in values])


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return None
    step = number(line.get("step"))
    # Beyond 2^53 a float64 no longer tells one step from the next, so that is damage as well.
    if not 0 <= step <= 2**53:
        return None
    return {**line, "step": int(step), "time": number(line.get("time"))}


def _runs_inside(folder: str) -> str:
    pattern = files.join(folder, "*", FILE)
    try:
        found = files.expand(pattern)
    except (OSError, UserError):
        found = []
    return ", ".join(path[: -len(FILE) - 1] for path in found[:5])
