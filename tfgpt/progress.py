"""Progress of long work: a tqdm bar on a terminal, one plain line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A bar with rate and time left.

    >>> with Progress("encode", total=10_000_000, unit="B") as bar:   # doctest: +SKIP
    ...     bar.update(4_000_000)
    encode  40 %  4.0 of 10.0 MB  9.8 MB/s  0:01 left
    """

    def __init__(self, label: str, *, total: int | None, unit: str = "B", initial: int = 0, every: float = 5.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.initial, self.words = initial, initial, ""
        self.started = self.last = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                desc=label, total=total, unit=unit, unit_scale=True, unit_divisor=1000, initial=initial,
                dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip

    def update(self, amount: int, words: str = "") -> None:
        """Count `amount` more units as done; `words` (a loss, say) stand behind the rate."""
        self.done += amount
        self.words = words
        if self.bar is not None:
            if words:
                self.bar.set_postfix_str(words, refresh=False)
            self.bar.update(amount)
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line to stdout without tearing the bar."""
        if self.bar is not None:
            self.bar.clear()
        print(text, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def line(self) -> str:
        """The present state as one plain line."""
        return self._line() + (f"  {self.words}" if self.words else "")

    def _line(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done - self.initial) / seconds
        if not self.total:
            return f"{self.label}  {_scaled(self.done, self.unit)}  {_scaled(rate, self.unit)}/s"
        left = max(self.total - self.done, 0) / rate if rate > 0 else float("inf")
        return (
            f"{self.label}  {min(100 * self.done / self.total, 100):3.0f} %  {_scaled(self.done, self.unit)} of "
            f"{_scaled(self.total, self.unit)}  {_scaled(rate, self.unit)}/s  {clock(left)} left"
        )

    def close(self) -> None:
        """Finish the bar, leaving its last state on the screen."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 0:07, 12:30, 3:05:00.

    >>> clock(7), clock(750), clock(11100)
    ('0:07', '12:30', '3:05:00')
    """
    if seconds == float("inf"):
        return "?"
    minutes, secs = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def _scaled(amount: float, unit: str) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= factor:
            return f"{amount / factor:.1f} {prefix}{unit}"
    return f"{amount:.0f} {unit}"
