"""Panels of bfloat16 for products of matrices: what `products` lays out of float32, rounded, and two by two.

A processor that has products of bfloat16 multiplies two numbers of a row with two of a column and adds both, so numbers that
follow one another along the sum stand together in one word of 32 bits. What an odd number of them lacks is zero.
"""

from __future__ import annotations

import numba
import numpy as np

from tfgpt.native.compiling import compiled
from tfgpt.native.vectors import bits_at, join_tallest, tallest, tile, turn

TALLEST, TILE = tallest(), tile()
NUMBER = 4  # bytes
TURNED = 8  # rows that are turned over at a time
LAST, SHIFT, INFINITE, MAGNITUDE, NO_NUMBER, ONE = np.array([0x7FFF, 16, 0x7F800000, 0x7FFFFFFF, 0x7FC0, 1], np.uint32)


@compiled()
def rounded(bits):
    """The bfloat16 nearest to a float32, both as whole numbers; of two as near, the even one."""
    near = np.uint32(np.uint32(np.uint32(bits + LAST) + np.uint32(np.uint32(bits >> SHIFT) & ONE)) >> SHIFT)
    # What is no number stays none: its bits might be rounded up to something else.
    return NO_NUMBER if np.uint32(bits & MAGNITUDE) > INFINITE else near


@compiled()
def pair(first, second):
    """Two float32 as one word."""
    return np.uint32(rounded(first) | np.uint32(rounded(second) << SHIFT))


@compiled()
def join_along(n, x, out):
    """n numbers that lie together, as pairs."""
    source, target = numba.carray(bits_at(x), n), numba.carray(bits_at(out), (n + 1) // 2)
    for k in range(np.uint64(n // 2)):
        target[k] = pair(source[2 * k], source[2 * k + 1])
    if n % 2:
        target[n // 2] = rounded(source[n - 1])


@compiled()
def join_across(width, first, second, out):
    """Pairs of a row's numbers and another's."""
    one, other = numba.carray(bits_at(first), width), numba.carray(bits_at(second), width)
    target = numba.carray(bits_at(out), width)
    for j in range(np.uint64(width)):
        target[j] = pair(one[j], other[j])


@compiled()
def join_alone(width, first, out):
    """Pairs of a row's numbers and zeros."""
    one, target = numba.carray(bits_at(first), width), numba.carray(bits_at(out), width)
    for j in range(np.uint64(width)):
        target[j] = rounded(one[j])


@compiled()
def clear_words(place, count):
    """Pairs of zeros."""
    words = numba.carray(bits_at(place), count)
    for j in range(np.uint64(count)):
        words[j] = 0


def apart(pairs: int) -> int:
    """From row to row of what is turned over, eight pairs at a time."""
    return pairs + 2 * TURNED


apart_in = compiled()(apart)


@compiled()
def lay_pairs_of_columns(n, width, w, w_step, room):
    """Panels [(n + 1) / 2, TILE] of w [n, width]; a last one that is not full is filled with zeros."""
    pairs = (n + 1) // 2
    for k in range(pairs):
        for left in range(0, width, TILE):
            source, target = w + NUMBER * (2 * k * w_step + left), room + NUMBER * (left * pairs + k * TILE)
            used = min(TILE, width - left)
            if 2 * k + 1 < n:
                join_across(used, source, source + NUMBER * w_step, target)
            else:
                join_alone(used, source, target)
            if used < TILE:
                clear_words(target + NUMBER * used, TILE - used)


@compiled()
def lay_pairs_of_turned(n, width, w, w_step, room, beside):
    """The same of w [width, n], which is turned over on the way. What is too much of it, the next panel overwrites."""
    pairs = (n + 1) // 2
    step = apart_in(pairs)
    for left in range(0, -(-width // TILE) * TILE, TURNED):
        for j in range(TURNED):
            if left + j < width:
                join_along(n, w + NUMBER * (left + j) * w_step, beside + NUMBER * j * step)
            else:
                clear_words(beside + NUMBER * j * step, pairs)
        column = left % TILE
        target = room + NUMBER * ((left - column) * pairs + column)
        for k in range(0, pairs, TURNED):
            turn(beside + NUMBER * k, step, target + NUMBER * k * TILE, TILE)


@compiled()
def lay_pairs_of_rows(height, n, x, x_step, room, beside):
    """Groups [(n + 1) / 2, TALLEST] of rows of x [height, n]. What is too much of one, the next one overwrites."""
    pairs = (n + 1) // 2
    step = apart_in(pairs)
    for top in range(0, height, TALLEST):
        for j in range(min(TALLEST, height - top)):
            join_along(n, x + NUMBER * (top + j) * x_step, beside + NUMBER * j * step)
        target = room + NUMBER * top * pairs
        for k in range(0, pairs, TURNED):
            turn(beside + NUMBER * k, step, target + NUMBER * k * TALLEST, TALLEST)
        if TALLEST > TURNED:  # the last rows, with some of the first ones again
            first = TALLEST - TURNED
            for k in range(0, pairs, TURNED):
                turn(beside + NUMBER * (first * step + k), step, target + NUMBER * (k * TALLEST + first), TALLEST)


@compiled()
def lay_pairs_of_turned_rows(height, n, x, x_step, room):
    """The same of x [n, height]."""
    pairs = (n + 1) // 2
    for top in range(0, height, TALLEST):
        for k in range(pairs):
            source = x + NUMBER * (2 * k * x_step + top)
            target = room + NUMBER * (top * pairs + k * TALLEST)
            if 2 * k + 1 < n:
                join_tallest(source, source + NUMBER * x_step, target)  # what is too much, the next ones overwrite
            else:
                join_alone(TALLEST, source, target)
