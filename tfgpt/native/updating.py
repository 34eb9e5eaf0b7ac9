"""AdamW over all weights at once, in their own memory: `tfgpt.optimizers.adam`, to rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfgpt.native.compiling import compiled
from tfgpt.native.rows import line_at
from tfgpt.native.team import Team, take

PIECE = 1 << 15  # numbers that a thread takes at a time


class Updates:
    """Of `sizes` weights, of which some `decays`."""

    def __init__(self, team: Team, sizes: Sequence[int], decays: Sequence[bool]) -> None:
        self._sizes = np.array(sizes, np.int64)
        self._decays = np.array(decays)
        self._ends = np.cumsum(-(-self._sizes // PIECE))
        self._team = team

    def __call__(self, places: np.ndarray, constants: Sequence[float]) -> None:
        """One update. places: [4, weights] addresses of all weights, of their gradients, of m and of v; constants: see `adam`."""
        assert len(set(places.reshape(-1).tolist())) == places.size, "two variables in one place"
        counters = np.zeros((1, 8), np.int64)
        given = np.array(constants, np.float32)
        self._team.run(adam, counters, places, self._sizes, self._ends, self._decays, given)

    def squares(self, places: np.ndarray) -> float:
        """The sum of the squares of all numbers of the gradients at these addresses [1, weights]."""
        sums = np.zeros(self._ends[-1])
        self._team.run(square, np.zeros((1, 8), np.int64), places, self._sizes, self._ends, sums)
        return float(sums.sum())


@compiled()
def piece(unit, places, sizes, ends):
    """Of which weight this unit is a piece, from which number on, and how many."""
    weight = np.searchsorted(ends, unit, side="right")
    first = (unit - (ends[weight - 1] if weight else 0)) * PIECE
    return weight, 4 * first, min(PIECE, sizes[weight] - first)


@compiled("reassoc", "nsz", inner=False)
def square(me, count, meeting, counters, places, sizes, ends, sums):
    """Sums of squares, one for each piece."""
    unit = take(counters, 0)
    while unit < len(sums):
        weight, begin, some = piece(unit, places, sizes, ends)
        x, total = line_at(places[0, weight] + begin, some), np.float32(0)
        for i in range(np.uint64(some)):
            total += x[i] * x[i]
        sums[unit] = total
        unit = take(counters, 0)


@compiled(inner=False)
def adam(me, count, meeting, counters, places, sizes, ends, decays, constants):
    """Pieces of weights, as they come. constants: what a gradient is multiplied with, the rate, the decay, beta1 and beta2
    and what is missing of them to one, the correction of v, epsilon."""
    unit = take(counters, 0)
    while unit < ends[len(ends) - 1]:
        weight, begin, some = piece(unit, places, sizes, ends)
        w, g = line_at(places[0, weight] + begin, some), line_at(places[1, weight] + begin, some)
        m, v = line_at(places[2, weight] + begin, some), line_at(places[3, weight] + begin, some)
        adjust(w, g, m, v, constants, constants[2] if decays[weight] else np.float32(0))
        unit = take(counters, 0)


@compiled()
def adjust(w, g, m, v, constants, decay):
    """One piece."""
    factor, rate, beta1, beta2 = constants[0], constants[1], constants[3], constants[4]
    rest1, rest2, correction, epsilon = constants[5], constants[6], constants[7], constants[8]
    for i in range(np.uint64(len(w))):
        gradient = g[i] * factor
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient)
        change = rate * m[i] / (np.sqrt(v[i] * correction) + epsilon)
        w[i] -= change + decay * w[i]
