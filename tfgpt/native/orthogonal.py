"""Muon over all matrices of the blocks, in their own memory: `tfgpt.optimizers.muon`, to rounding.

A matrix is one thread's from its momentum to its change; there are six of them in a block. X is never turned over: rounds are
X <- (a I + b G + c G G) X with G = X X', or for a tall one X <- X (a I + b G + c G G) with G = X' X. G and its square are
symmetric, so only what stands on and below their diagonals is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from tfgpt.native.arithmetic import ONE
from tfgpt.native.compiling import compiled
from tfgpt.native.products import NUMBER, PUT, ROOM, TILE, multiply, multiply_by_turned, multiply_turned
from tfgpt.native.rows import line_at
from tfgpt.native.team import take
from tfgpt.native.updating import FACTOR, FIRST_SLOT, GRADIENT, RATE, WEIGHT, Table, decay_of
from tfgpt.native.vectors import number_at, turn

APART = 16  # numbers behind each row, as products want them
STRIP = 2 * TILE  # columns of a symmetric matrix that are multiplied at a time
OF, BEGIN, WIDTH = range(3)  # columns of the units: which weight, its first column, how many
MOMENTUM, REST, A, B, C, ROUNDS, SIZE = range(3, 10)  # of constants
SMALLEST = np.float32(1e-30)


def units_of(table: Table, parts: Sequence[int]) -> np.ndarray:
    """Matrices [units, 3], of which each weight has so many side by side; what takes longest comes first."""
    found = []
    for weight, ((_, columns), count) in enumerate(zip(table.shapes.tolist(), parts, strict=True)):
        found += [(weight, i * (columns // count), columns // count) for i in range(count)]
    return np.array(sorted(found, key=lambda unit: -int(table.shapes[unit[0], 0]) * unit[2]), np.int64)


def room_of(table: Table, units: np.ndarray, threads: int) -> np.ndarray:
    """What each thread works in."""
    sizes = [room_size(int(table.shapes[weight, 0]), width) for weight, _, width in units.tolist()]
    return np.zeros((threads, max(sizes)), np.float32)


def room_size(rows: int, columns: int) -> int:
    """Numbers that a thread needs for a matrix."""
    side = min(rows, columns)
    return ROOM + 2 * rows * (columns + APART) + 2 * side * (side + APART)


@compiled(inner=False)
def muon(me, count, meeting, counters, table, constants, units, rooms):
    """Constants: the momentum and what is missing of it to one, three of a round, how many rounds, and how large a change is to be."""
    unit = take(counters, 0)
    while unit < len(units):
        weight, begin, width = units[unit, OF], units[unit, BEGIN], units[unit, WIDTH]
        rows, own = table.shapes[weight, 0], rooms[me].ctypes.data
        step = width + APART
        x = own + NUMBER * ROOM
        y = x + NUMBER * rows * step
        room = y + NUMBER * rows * step
        norm = look_ahead(weight, begin, rows, width, table, constants, x, step)
        for row in range(rows):
            line = line_at(x + NUMBER * row * step, width)
            for j in range(np.uint64(width)):
                line[j] *= norm
        for _ in range(int(constants[ROUNDS])):
            one_round(rows, width, x, y, step, constants, room, own)
            x, y = y, x
        scale = constants[RATE] * constants[SIZE] * np.sqrt(np.float32(max(rows, width)))
        change(weight, begin, rows, width, table, scale, decay_of(table, weight, constants), x, step)
        unit = take(counters, 0)


@compiled("reassoc", "nnan", "nsz")
def look_ahead(weight, begin, rows, width, table, constants, x, step):
    """The momentum after this step and one more such, into x; gives what makes the length of that 1, or 0 for zeros."""
    factor, keep, rest, top = constants[FACTOR], constants[MOMENTUM], constants[REST], np.float32(0)
    for row in range(rows):
        g = part_of(table, GRADIENT, weight, row, begin, width)
        m = part_of(table, FIRST_SLOT, weight, row, begin, width)
        line = line_at(x + NUMBER * row * step, width)
        for j in range(np.uint64(width)):
            gradient = g[j] * factor
            m[j] = keep * m[j] + rest * gradient
            line[j] = rest * gradient + keep * m[j]
            top = max(top, abs(line[j]))
    # The largest number becomes 1 first: the squares of tiny ones, or of huge ones, would leave float32.
    shrink, squares = ONE / max(top, SMALLEST), 0.0
    for row in range(rows):
        line, total = line_at(x + NUMBER * row * step, width), np.float32(0)
        for j in range(np.uint64(width)):
            number = line[j] * shrink
            total += number * number
        squares += total
    return shrink / max(np.float32(np.sqrt(squares)), ONE)


@compiled()
def one_round(rows, width, x, y, step, constants, room, own):
    """y [rows, width]: what one round makes of x."""
    side, wide = min(rows, width), rows <= width
    apart = side + APART
    gram, square = room, room + NUMBER * side * apart
    for left in range(0, side, STRIP):
        some, place = min(STRIP, side - left), gram + NUMBER * (left * apart + left)
        if wide:
            corner = x + NUMBER * left * step
            multiply_by_turned(side - left, width, some, corner, step, corner, step, place, apart, own, PUT)
        else:
            corner = x + NUMBER * left
            multiply_turned(side - left, rows, some, corner, step, corner, step, place, apart, own, PUT)
    reflect(side, gram, apart)
    for left in range(0, side, STRIP):
        multiply(
            side - left, side, min(STRIP, side - left), gram + NUMBER * left * apart, apart, gram + NUMBER * left, apart,
            square + NUMBER * (left * apart + left), apart, own, PUT,
        )  # fmt: skip
    for row in range(side):
        g, s = line_at(gram + NUMBER * row * apart, side), line_at(square + NUMBER * row * apart, side)
        for j in range(np.uint64(row + 1)):
            s[j] = constants[B] * g[j] + constants[C] * s[j]
        s[row] += constants[A]
    reflect(side, square, apart)
    if wide:
        multiply(rows, rows, width, square, apart, x, step, y, step, own, PUT)
    else:
        multiply(rows, width, width, x, step, square, apart, y, step, own, PUT)


@compiled()
def reflect(side, x, step):
    """What stands below the diagonal, above it too."""
    whole = side // 8 * 8
    for row in range(0, whole, 8):
        for column in range(0, row, 8):
            turn(x + NUMBER * (row * step + column), step, x + NUMBER * (column * step + row), step)
        reflect_rows(row, row + 8, row, x, step)
    reflect_rows(whole, side, 0, x, step)


@compiled()
def reflect_rows(begin, end, first, x, step):
    """The same of some rows, from column `first` on, number by number."""
    numbers = numba.carray(number_at(x), end * step)
    for row in range(begin, end):
        for column in range(first, row):
            numbers[column * step + row] = numbers[row * step + column]


@compiled()
def change(weight, begin, rows, width, table, scale, decay, x, step):
    """The weight moves by so much of x."""
    for row in range(rows):
        w, line = part_of(table, WEIGHT, weight, row, begin, width), line_at(x + NUMBER * row * step, width)
        for j in range(np.uint64(width)):
            w[j] -= scale * line[j] + decay * w[j]


@compiled()
def part_of(table, kind, weight, row, begin, width):
    """Some columns of a row of what `kind` of a table's places holds."""
    return line_at(table.places[kind, weight] + NUMBER * (row * table.shapes[weight, 1] + begin), width)
