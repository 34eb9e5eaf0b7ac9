"""Axes: from values to places between 0 and 1, round ticks, and numbers as a person writes them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Scale(NamedTuple):
    """An axis from `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Where values lie: 0 at `low`, 1 at `high`; NaN for what a log axis cannot show."""
        values = np.asarray(values, np.float64)
        if not self.log:
            return (values - self.low) / (self.high - self.low)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log(np.where(values > 0, values, np.nan))
        return (logs - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def ticks(self, count: int = 6, *, clock: bool = False) -> list[float]:
        """About `count` round values inside; `clock` rounds seconds to minutes, hours and days.

        >>> Scale(0.0, 1000.0).ticks()
        [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
        """
        if self.log:
            return self._log_ticks(count)
        step = _round_step((self.high - self.low) / count, clock=clock)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
            found = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / (count + 1))]
        # Less than a third of a decade: a log axis is all but straight, and round steps read best.
        return [tick for tick in Scale(self.low, self.high).ticks(count) if tick > 0]


def short(value: float) -> str:
    """A number in few signs: 0.00025, 3e-5, 12.5, 1.5k, 32.4M.

    >>> short(1_500), short(3e-5), short(0.25), short(2_000_000)
    ('1.5k', '3e-5', '0.25', '2M')
    """
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor * 0.99995:
            return f"{value / factor:.4g}{unit}" if size < 1e18 else f"{value:.3g}"
    if size >= 1e-3 or size == 0:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.3g}".split("e") if size < 1e-4 else (f"{value:.3g}", "")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def count(value: float) -> str:
    """A number of tokens or weights, whose thousand millions are billions and not giga.

    >>> count(1.5e9)
    '1.5B'
    """
    return short(value).replace("G", "B")


def units(value: float) -> str:
    """The same with a space before the prefix, for a unit to follow.

    >>> units(9.02e11) + "FLOP/s"
    '902 GFLOP/s'
    """
    text = short(value)
    return f"{text[:-1]} {text[-1]}" if text[-1] in "PTGMk" else text + " "


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.25), duration(75), duration(7_500), duration(200_000)
    ('0.25 s', '1 min 15 s', '2 h 05 min', '2 d 7 h')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    whole = int(seconds + 0.5)
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def tick_label(axis: str, value: float, high: float) -> str:
    """The label of a tick on an x axis that ends at `high`: all ticks of an axis speak in one unit.

    >>> tick_label("time", 5400, 20_000), tick_label("tokens", 2e6, 1e7)
    ('1.5 h', '2M')
    """
    if axis != "time" or value == 0:
        return count(value)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if high >= 2 * size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g} s"


def _round_step(rough: float, *, clock: bool) -> float:
    if clock:
        steps = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
        if rough > 86400:
            return 86400 * _round_step(rough / 86400, clock=False)
        if rough > 30:
            return next(step for step in steps if step >= rough)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
