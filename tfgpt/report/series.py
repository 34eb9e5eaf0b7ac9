"""Long series made short enough to draw: smoothing, and thinning that keeps every peak."""

from __future__ import annotations

import numpy as np


def smooth(values: np.ndarray, *, steep: bool = True) -> np.ndarray:
    """A running mean [n] that ignores NaN, over a thirtieth of the series; narrower at its `steep` start.

    >>> smooth(np.array([2.0, 2.0, 2.0]))
    array([2., 2., 2.])
    """
    n = values.size
    at = np.arange(n)
    half = np.minimum(at // 6 if steep else at, n // 60 + 1)
    # Two passes of a box make a triangle, whose line has no steps where a single bad batch enters or leaves.
    return _box(_box(values, at, half), at, half)


def _box(values: np.ndarray, at: np.ndarray, half: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    low, high = at - half, np.minimum(at + half, values.size - 1) + 1
    number = count[high] - count[low]
    return np.where(number > 0, (total[high] - total[low]) / np.maximum(number, 1), np.nan)


def thin(x: np.ndarray, values: np.ndarray, buckets: int) -> np.ndarray:
    """Indices [<= 2 buckets + 2] of the lowest and highest value of each bucket along x, in order.

    A spike of one step in a million stays; NaN is kept only where a whole bucket has nothing else.
    """
    n = values.size
    if n <= 2 * buckets + 2:
        return np.arange(n)
    width = (x[-1] - x[0]) / buckets or 1.0
    bucket = np.clip(((x - x[0]) / width).astype(np.int64), 0, buckets - 1)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    low = np.where(np.isfinite(values), values, np.inf)
    high = np.where(np.isfinite(values), values, -np.inf)
    keep = [np.array([0, n - 1])]
    for key, reduce in ((low, np.minimum), (high, np.maximum)):
        # The first place in each bucket that equals the bucket's extreme.
        extreme = np.repeat(reduce.reduceat(key, starts), np.diff(np.append(starts, n)))
        hits = np.flatnonzero(key == extreme)
        keep.append(hits[np.unique(bucket[hits], return_index=True)[1]])
    return np.unique(np.concatenate(keep))


def every(n: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0..n-1, evenly spread, first and last among them."""
    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))


def limits(parts: list[np.ndarray], *, log: bool = False, robust: bool = False) -> tuple[float, float]:
    """Lowest and highest finite value of all parts with a little air; `robust` leaves one in a thousand outside.

    On a log axis only positive values count. (0, 1) stands in where there is nothing.
    """
    known = np.concatenate([part[np.isfinite(part) & ((part > 0) | (not log))] for part in parts] or [np.empty(0)])
    if not known.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = np.quantile(known, [0.001, 0.999]) if robust else (known.min(), known.max())
    low, high = float(low), float(high)
    if log:
        air = max((high / low) ** 0.04, 1.05)
        return low / air, high * air
    air = 0.04 * (high - low) or max(abs(high) * 0.05, 1e-12)
    return low - air, high + air
