"""Adafactor over all weights at once, in their own memory: `tfgpt.optimizers.adafactor`, to rounding."""

from __future__ import annotations

import numpy as np

from tfgpt.native.arithmetic import ONE
from tfgpt.native.compiling import compiled
from tfgpt.native.rows import line_at
from tfgpt.native.team import take, wait
from tfgpt.native.updating import (
    FACTOR,
    FIRST_SLOT,
    GRADIENT,
    RATE,
    WEIGHT,
    Table,
    decay_of,
    piece,
    piece_of,
    squares_of_line,
)

MOMENTUM = FIRST_SLOT
OF_NUMBERS, OF_ROWS, OF_COLUMNS = range(FIRST_SLOT + 1, FIRST_SLOT + 4)  # mean squares: of a vector, or of a matrix
SMALLEST, SMALLEST_WEIGHT, LARGEST_UPDATE = np.float32(1e-30), np.float32(1e-3), ONE
OF_WEIGHT, OF_UPDATE = range(2)


def room_of(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `adafactor` works in: sums of columns in each piece, where those of a weight begin, sums of squares in each, and means."""
    pieces = np.diff(table.ends, prepend=0)
    sizes = pieces * table.shapes[:, 1]
    return (
        np.zeros(sizes.sum(), np.float32), np.cumsum(sizes) - sizes, np.zeros((2, table.ends[-1])),
        np.zeros(len(sizes), np.float32),
    )  # fmt: skip


@compiled(inner=False)
def adafactor(me, count, meeting, counters, table, constants, sums, begins, totals, means):
    """Constants: beta1, what is missing of it to one, and how much the newest squares count."""
    units = table.ends[len(table.ends) - 1]
    unit = take(counters, 0)
    while unit < units:
        weight, first, rows = piece(unit, table)
        totals[OF_WEIGHT, unit] = squares_of_line(piece_of(table, WEIGHT, weight, first, rows))
        if table.places[OF_COLUMNS, weight]:
            add_squares(unit, weight, first, rows, table, constants, sums_of(unit, weight, table, sums, begins))
        else:
            totals[OF_UPDATE, unit] = update_vector(weight, first, rows, table, constants)
        unit = take(counters, 0)
    wait(count, meeting)
    weight = take(counters, 1)
    while weight < len(table.ends):
        if table.places[OF_COLUMNS, weight]:
            means[weight] = close_columns(weight, table, constants, sums, begins)
        weight = take(counters, 1)
    wait(count, meeting)
    unit = take(counters, 2)
    while unit < units:
        weight, first, rows = piece(unit, table)
        if table.places[OF_COLUMNS, weight]:
            totals[OF_UPDATE, unit] = measure(
                weight, first, rows, table, constants, roots_of(weight, table, sums, begins), means[weight]
            )
        unit = take(counters, 2)
    wait(count, meeting)
    unit, last, factor = take(counters, 3), -1, np.float32(0)
    while unit < units:
        weight, first, rows = piece(unit, table)
        if weight != last:  # a large weight has a thousand pieces, over which this goes
            last, factor = weight, constants[RATE] * steepness(weight, table, totals)
        if table.places[OF_COLUMNS, weight]:
            roots, mean = roots_of(weight, table, sums, begins), means[weight]
            for row in range(first, first + rows):
                by_row = factor * row_rate(weight, row, table, mean, constants)
                change_row(weight, row, table, constants, by_row, roots)
        else:
            change_vector(weight, table, constants, factor)
        unit = take(counters, 3)


@compiled()
def sums_of(unit, weight, table, sums, begins):
    """The sums of columns in this piece."""
    columns, number = table.shapes[weight, 1], unit - (table.ends[weight - 1] if weight else 0)
    first = begins[weight] + number * columns
    return sums[first : first + columns]


@compiled()
def roots_of(weight, table, sums, begins):
    """For each column, one through the root of its mean square; they lie where the first piece's sums were."""
    return sums[begins[weight] : begins[weight] + table.shapes[weight, 1]]


@compiled("reassoc", "nsz")
def add_squares(unit, weight, first, rows, table, constants, sums):
    """Mean squares of some rows, and sums of squares of the columns there."""
    columns, new = np.uint64(table.shapes[weight, 1]), constants[5]
    squares = line_at(table.places[OF_ROWS, weight], table.shapes[weight, 0])
    for j in range(columns):
        sums[j] = 0
    for row in range(first, first + rows):
        g, total = piece_of(table, GRADIENT, weight, row, 1), np.float32(0)
        for j in range(columns):
            gradient = g[j] * constants[FACTOR]
            square = gradient * gradient + SMALLEST
            sums[j] += square
            total += square
        squares[row] = (ONE - new) * squares[row] + new * (total / np.float32(columns))


@compiled()
def close_columns(weight, table, constants, sums, begins):
    """Mean squares of a matrix's columns, of which the roots are kept; gives the mean of those of its rows."""
    rows, columns, new = table.shapes[weight, 0], np.uint64(table.shapes[weight, 1]), constants[5]
    by_column = line_at(table.places[OF_COLUMNS, weight], table.shapes[weight, 1])
    roots = roots_of(weight, table, sums, begins)
    for unit in range((table.ends[weight - 1] if weight else 0) + 1, table.ends[weight]):
        more = sums_of(unit, weight, table, sums, begins)
        for j in range(columns):
            roots[j] += more[j]
    for j in range(columns):
        by_column[j] = (ONE - new) * by_column[j] + new * (roots[j] / np.float32(rows))
        roots[j] = ONE / np.sqrt(by_column[j])
    squares, total = line_at(table.places[OF_ROWS, weight], rows), 0.0
    for row in range(rows):
        total += squares[row]
    return np.float32(total / rows)


@compiled()
def row_rate(weight, row, table, mean, constants):
    """What a row's gradient is multiplied with, beside its columns' roots."""
    return constants[FACTOR] / np.sqrt(line_at(table.places[OF_ROWS, weight], table.shapes[weight, 0])[row] / mean)


@compiled("reassoc", "nsz")
def measure(weight, first, rows, table, constants, roots, mean):
    """The sum of the squares of some rows of the update."""
    whole, columns = 0.0, np.uint64(table.shapes[weight, 1])
    for row in range(first, first + rows):
        g, total = piece_of(table, GRADIENT, weight, row, 1), np.float32(0)
        by_row = row_rate(weight, row, table, mean, constants)
        for j in range(columns):
            update = g[j] * by_row * roots[j]
            total += update * update
        whole += total
    return whole


@compiled()
def steepness(weight, table, totals):
    """What an update is multiplied with beside the rate: the weight's own size, less if the update is too long."""
    of_weight, of_update = 0.0, 0.0
    for unit in range(table.ends[weight - 1] if weight else 0, table.ends[weight]):
        of_weight += totals[OF_WEIGHT, unit]
        of_update += totals[OF_UPDATE, unit]
    numbers = table.shapes[weight, 0] * table.shapes[weight, 1]
    own, long = np.float32(np.sqrt(of_weight / numbers)), np.float32(np.sqrt(of_update / numbers))
    return max(own, SMALLEST_WEIGHT) / max(ONE, long / LARGEST_UPDATE)


@compiled()
def change_row(weight, row, table, constants, by_row, roots):
    """One row of a matrix, where `by_row` is all that its gradient is multiplied with."""
    w, g = piece_of(table, WEIGHT, weight, row, 1), piece_of(table, GRADIENT, weight, row, 1)
    m, decay = piece_of(table, MOMENTUM, weight, row, 1), decay_of(table, weight, constants)
    keep, rest = constants[3], constants[4]
    if len(m):
        for j in range(np.uint64(len(w))):
            m[j] = keep * m[j] + rest * (g[j] * by_row * roots[j])
            w[j] -= m[j] + decay * w[j]
    else:
        for j in range(np.uint64(len(w))):
            w[j] -= g[j] * by_row * roots[j] + decay * w[j]


@compiled("reassoc", "nsz")
def update_vector(weight, first, rows, table, constants):
    """Mean squares of a vector's numbers; gives the sum of the squares of the update."""
    g, v = piece_of(table, GRADIENT, weight, first, rows), piece_of(table, OF_NUMBERS, weight, first, rows)
    new, total = constants[5], np.float32(0)
    for i in range(np.uint64(len(g))):
        gradient = g[i] * constants[FACTOR]
        v[i] = (ONE - new) * v[i] + new * (gradient * gradient + SMALLEST)
        total += gradient * gradient / v[i]
    return total


@compiled()
def change_vector(weight, table, constants, factor):
    """A whole vector."""
    w, g = piece_of(table, WEIGHT, weight, 0, 1), piece_of(table, GRADIENT, weight, 0, 1)
    m, v = piece_of(table, MOMENTUM, weight, 0, 1), piece_of(table, OF_NUMBERS, weight, 0, 1)
    decay, keep, rest = decay_of(table, weight, constants), constants[3], constants[4]
    for i in range(np.uint64(len(w))):
        change = factor * (g[i] * constants[FACTOR]) / np.sqrt(v[i])
        if len(m):
            m[i] = keep * m[i] + rest * change
            change = m[i]
        w[i] -= change + decay * w[i]
