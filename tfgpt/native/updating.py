"""Updates of all weights at once, in their own memory: what every rule needs, AdamW, and gradient descent.

The rules are those of `tfgpt.optimizers`, to rounding. Each is a `work` of a team: work(me, count, meeting, counters, table,
constants, *more), where constants begin with what gradients are multiplied with, the rate, and the rate of decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.native.compiling import compiled
from tfgpt.native.rows import line_at
from tfgpt.native.team import Team, take

PIECE = 1 << 15  # numbers that a thread takes at a time
WEIGHT, GRADIENT, FIRST_SLOT, SECOND_SLOT = range(4)  # rows of a table's places
FACTOR, RATE, DECAY = range(3)  # of constants; a rule's own come behind them
PHASES = 8  # at most, of a rule


class Table(NamedTuple):
    """Weights that change by one rule. A vector is a matrix of one row."""

    places: np.ndarray  # [2 + slots, weights]: addresses of weights, gradients, and what is remembered; 0 for nothing
    shapes: np.ndarray  # [weights, 2]
    ends: np.ndarray  # [weights]: pieces, which are some whole rows, of this weight and those before it
    decays: np.ndarray  # [weights] bool


def table_of(shapes: Sequence[tuple[int, ...]], decays: Sequence[bool], slots: int) -> Table:
    """The table of weights that are nowhere yet."""
    flat = np.array([(1, *shape)[-2:] for shape in shapes], np.int64).reshape(-1, 2)
    pieces = [-(-rows // rows_of_a_piece(columns)) for rows, columns in flat]
    places = np.zeros((2 + slots, len(shapes)), np.int64)
    return Table(places, flat, np.cumsum(np.array(pieces, np.int64)), np.array(decays, np.bool_))


def squares(team: Team, table: Table) -> float:
    """The sum of the squares of all numbers of the gradients."""
    sums = np.zeros(table.ends[-1])
    team.run(square, np.zeros((1, 8), np.int64), table, sums)
    return float(sums.sum())


def rows_of_a_piece(columns: int) -> int:
    """How many rows of so many columns are a piece."""
    return max(1, PIECE // columns)


rows_in = compiled()(rows_of_a_piece)


@compiled()
def piece(unit, table):
    """Of which weight this unit is a piece, from which row on, and how many rows."""
    weight = np.searchsorted(table.ends, unit, side="right")
    rows, high = table.shapes[weight, 0], rows_in(table.shapes[weight, 1])
    first = (unit - (table.ends[weight - 1] if weight else 0)) * high
    return weight, first, min(high, rows - first)


@compiled()
def piece_of(table, kind, weight, first, rows):
    """What `kind` of a table's places holds for those rows, as one line; empty where there is nothing."""
    place, columns = table.places[kind, weight], table.shapes[weight, 1]
    return line_at(place + 4 * first * columns, rows * columns if place else 0)


@compiled()
def decay_of(table, weight, constants):
    """What a weight is multiplied with before it is subtracted from itself."""
    return constants[DECAY] if table.decays[weight] else np.float32(0)


@compiled("reassoc", "nsz")
def squares_of_line(x):
    """The sum of the squares of a line."""
    total = np.float32(0)
    for i in range(np.uint64(len(x))):
        total += x[i] * x[i]
    return total


@compiled(inner=False)
def square(me, count, meeting, counters, table, sums):
    """Sums of squares of gradients, one for each piece."""
    unit = take(counters, 0)
    while unit < len(sums):
        weight, first, rows = piece(unit, table)
        sums[unit] = squares_of_line(piece_of(table, GRADIENT, weight, first, rows))
        unit = take(counters, 0)


@compiled(inner=False)
def adam(me, count, meeting, counters, table, constants):
    """AdamW. Constants: beta1, beta2, what is missing of them to one, the correction of v, epsilon; the rate is corrected for m."""
    unit = take(counters, 0)
    while unit < table.ends[len(table.ends) - 1]:
        weight, first, rows = piece(unit, table)
        adjust(
            piece_of(table, WEIGHT, weight, first, rows), piece_of(table, GRADIENT, weight, first, rows),
            piece_of(table, FIRST_SLOT, weight, first, rows), piece_of(table, SECOND_SLOT, weight, first, rows),
            constants, decay_of(table, weight, constants),
        )  # fmt: skip
        unit = take(counters, 0)


@compiled()
def adjust(w, g, m, v, constants, decay):
    """One piece."""
    factor, rate, beta1, beta2 = constants[FACTOR], constants[RATE], constants[3], constants[4]
    rest1, rest2, correction, epsilon = constants[5], constants[6], constants[7], constants[8]
    for i in range(np.uint64(len(w))):
        gradient = g[i] * factor
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * (gradient * gradient)
        change = rate * m[i] / (np.sqrt(v[i] * correction) + epsilon)
        w[i] -= change + decay * w[i]


@compiled(inner=False)
def descend(me, count, meeting, counters, table, constants):
    """Gradient descent. The constant is beta1, for weights that have a momentum."""
    factor, rate, beta1 = constants[FACTOR], constants[RATE], constants[3]
    unit = take(counters, 0)
    while unit < table.ends[len(table.ends) - 1]:
        weight, first, rows = piece(unit, table)
        w, g = piece_of(table, WEIGHT, weight, first, rows), piece_of(table, GRADIENT, weight, first, rows)
        m, decay = piece_of(table, FIRST_SLOT, weight, first, rows), decay_of(table, weight, constants)
        if len(m):
            for i in range(np.uint64(len(w))):
                m[i] = beta1 * m[i] + g[i] * factor
                w[i] -= rate * m[i] + decay * w[i]
        else:
            for i in range(np.uint64(len(w))):
                w[i] -= rate * (g[i] * factor) + decay * w[i]
        unit = take(counters, 0)
