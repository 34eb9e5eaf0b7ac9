"""Watches the loss: no NaN and no leap goes unnoticed, and the first one does not end a run.

The first time, the run returns to its last good checkpoint and goes on behind the data that led there; the second time
it stops, because a run that leaps twice has a cause that somebody should look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfgpt.errors import Failure

MEMORY = 0.98  # weight of the past in the running mean and spread of the loss
WARM = 50  # updates before a leap is looked for: the loss of a young model falls too fast to judge
LEAP = 8.0  # spreads above the mean that count as a leap ...
LEAST_LEAP = 0.5  # ... and at least so many nats, as a calm loss has next to no spread
CONSECUTIVE = 3  # losses in a row that must be high: one odd batch is no leap
REFUSED = 50  # updates in a row that were refused for a gradient that is not finite


class Diverged(Failure):
    """The run was stopped by its guard."""

    exit_code = 3


@dataclass
class Guard:
    """What is remembered of the losses so far; part of a checkpoint's state."""

    mean: float = 0.0
    square: float = 0.0
    seen: int = 0
    high: int = 0
    refused: int = 0
    rollbacks: int = 0

    def look(self, loss: float, applied: bool) -> str:
        """Take in one update; returns what is wrong, or an empty string."""
        if not applied or not math.isfinite(loss):
            self.refused += 1
            if not math.isfinite(loss):
                return f"the loss is {loss}"
            return f"{self.refused} gradients in a row were not finite" if self.refused >= REFUSED else ""
        self.refused = 0
        if self.seen >= WARM and loss > self._limit():
            self.high += 1
            if self.high >= CONSECUTIVE:
                return f"the loss leapt from about {self.mean:.3f} to {loss:.3f}"
            return ""
        self.high = 0
        self.seen += 1
        # A weighted mean that is unbiased from its first value on.
        weight = max(1 - MEMORY, 1 / self.seen)
        self.mean += weight * (loss - self.mean)
        self.square += weight * ((loss - self.mean) ** 2 - self.square)
        return ""

    def _limit(self) -> float:
        return self.mean + max(LEAP * math.sqrt(max(self.square, 0.0)), LEAST_LEAP)
