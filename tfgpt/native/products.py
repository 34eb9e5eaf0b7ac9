"""Products of matrices for training, one thread's share of each: small panels are laid out as they are needed.

A panel of the right matrix, `tile()` columns wide and a few hundred rows deep, stays in the first-level cache while all rows of
the left one pass by (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"). Everything is an address and a
distance from row to row, in numbers. Behind each row of a left matrix that is turned over there must be 16 numbers more, which
are read but not used. Matrices are float32; in a room that says so, what is multiplied is rounded to bfloat16 first (`pairs`).
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
from llvmlite import binding
from numba import types

from tfgpt.native.compiling import compiled, outer
from tfgpt.native.pairs import (
    TURNED,
    apart,
    lay_pairs_of_columns,
    lay_pairs_of_rows,
    lay_pairs_of_turned,
    lay_pairs_of_turned_rows,
)
from tfgpt.native.vectors import (
    copy_tallest,
    copy_tile,
    number_at,
    put_tile,
    put_tile_of_pairs,
    put_turned_tile,
    tallest,
    tile,
    turn,
)

TALLEST, TILE = tallest(), tile()

DEEP = 256  # rows of a panel, or pairs of them
STRIP = 8  # panels that are laid out at a time, so that what is read of a row is more than a cache line
HIGH = 32 * TALLEST  # rows of the left matrix that stay in the second-level cache
# What a thread works in, in numbers, and where it begins: whether products are of pairs; panels, with what is too much of the
# last of them; rows; a panel's product that is wider than wanted; and rows that are turned over.
PANELS = 16
LAID_ROWS = PANELS + STRIP * TILE * DEEP + TURNED * TILE
NARROW = LAID_ROWS + HIGH * DEEP + TURNED * TALLEST + 16
BESIDE = NARROW + TALLEST * TILE + 16
ROOM = BESIDE + max(TALLEST, TURNED) * apart(DEEP)
OF_PAIRS = np.float32(1)  # what the first number of a room is, if products are to be of bfloat16
NUMBER = 4  # bytes
PLAIN, X_TURNED, W_TURNED = 0, 1, 2  # what is turned over
PUT, ADD = np.arange(2)  # what becomes of a product; of plain numbers numba would compile callers anew for each
SYMBOL = "tfgpt_product"

_product = types.ExternalFunction(SYMBOL, types.void(*[types.intp] * 12))


@cache
def ready() -> None:
    """Compile the products, or find them compiled; to be called before anything that uses them."""
    binding.add_symbol(SYMBOL, outer(_product_of, 12).address)


@compiled(inner=False)
def multiply_in(room, x, w, out):
    """out = x w, of whole arrays."""
    multiply(
        len(x), x.shape[1], w.shape[1], x.ctypes.data, x.shape[1], w.ctypes.data, w.shape[1], out.ctypes.data, out.shape[1],
        room.ctypes.data, PUT,
    )  # fmt: skip


def pairs_are_right() -> bool:
    """Whether products of bfloat16 come out here as they should: small whole numbers are exact in any order."""
    ready()
    draw, room = np.random.default_rng(0), np.zeros(ROOM, np.float32)
    room[0] = OF_PAIRS
    x, w = (draw.integers(-8, 9, shape).astype(np.float32) for shape in ((TALLEST + 1, 67), (67, 2 * TILE + 3)))
    out = np.full((len(x), w.shape[1]), np.nan, np.float32)
    multiply_in(room, x, w, out)
    return bool((out == x @ w).all())


@compiled()
def multiply(rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add):
    """out [rows, columns] = x [rows, depth] w [depth, columns], or with ADD += that."""
    _product(PLAIN, rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add)


@compiled()
def multiply_by_turned(rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add):
    """out [rows, columns] = x [rows, depth] times the transpose of w [columns, depth]."""
    _product(W_TURNED, rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add)


@compiled()
def multiply_turned(rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add):
    """out [rows, columns] = the transpose of x [depth, rows] times w [depth, columns]."""
    _product(X_TURNED, rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add)


def _product_of(kind, rows, depth, columns, x, x_step, w, w_step, out, out_step, room, add):
    of_pairs = numba.carray(number_at(room), 1)[0] == OF_PAIRS
    one = 2 if of_pairs else 1
    whole = -(-depth // one)  # steps of the inner loop
    parts = -(-whole // DEEP)
    panels, laid_rows, narrow = room + NUMBER * PANELS, room + NUMBER * LAID_ROWS, room + NUMBER * NARROW
    for part in range(parts):
        first, behind = whole * part // parts, whole * (part + 1) // parts
        steps, adds = behind - first, add + part
        first, n = one * first, min(one * behind, depth) - one * first
        for top in range(0, rows, HIGH):
            height = min(HIGH, rows - top)
            _lay_rows(kind, of_pairs, height, n, x, x_step, top, first, laid_rows, room + NUMBER * BESIDE)
            for left in range(0, columns, STRIP * TILE):
                width = min(STRIP * TILE, columns - left)
                _lay_panels(kind, of_pairs, width, n, w, w_step, left, first, panels, room + NUMBER * BESIDE)
                for begin in range(0, width, TILE):
                    panel, used = panels + NUMBER * begin * steps, min(TILE, width - begin)
                    row = 0
                    while row < height:
                        some = min(TALLEST, height - row)
                        while some & (some - 1) and some < TALLEST:
                            some &= some - 1  # the largest power of two in it
                        place = out + NUMBER * ((top + row) * out_step + left + begin)
                        # A panel may be wider than what it has to do.
                        target, step, more = (place, out_step, adds) if used == TILE else (narrow, TILE, 0)
                        group = row // TALLEST * TALLEST
                        source = laid_rows + NUMBER * (group * steps + row - group)
                        if of_pairs:
                            put_tile_of_pairs(some, source, TALLEST, panel, steps, target, step, more)
                        elif kind == X_TURNED:
                            put_turned_tile(some, source, TALLEST, panel, n, target, step, more)
                        else:
                            source = x + NUMBER * ((top + row) * x_step + first)
                            put_tile(some, source, x_step, panel, n, target, step, more)
                        if used < TILE:
                            _put_narrow(some, used, target, place, out_step, adds)
                        row += some


@compiled()
def _lay_rows(kind, of_pairs, height, n, x, x_step, top, first, room, beside):
    """Rows of the left matrix as the inner loop wants them, where they do not stand so."""
    if kind == X_TURNED:
        source = x + NUMBER * (first * x_step + top)
        if of_pairs:
            lay_pairs_of_turned_rows(height, n, source, x_step, room)
        else:
            _lay_turned_rows(height, n, source, x_step, room)
    elif of_pairs:
        lay_pairs_of_rows(height, n, x + NUMBER * (top * x_step + first), x_step, room, beside)


@compiled()
def _lay_panels(kind, of_pairs, width, n, w, w_step, left, first, room, beside):
    """Panels of the right matrix."""
    if kind == W_TURNED:
        source = w + NUMBER * (left * w_step + first)
        if of_pairs:
            lay_pairs_of_turned(n, width, source, w_step, room, beside)
        else:
            _lay_turned(n, width, source, w_step, room)
    else:
        source = w + NUMBER * (first * w_step + left)
        if of_pairs:
            lay_pairs_of_columns(n, width, source, w_step, room)
        else:
            _lay_columns(n, width, source, w_step, room)


@compiled()
def _lay_columns(n, width, w, w_step, room):
    """Panels of w [n, width]; a last one that is not full is filled with zeros."""
    whole = width // TILE
    for i in range(n):
        for panel in range(whole):
            copy_tile(w + NUMBER * (i * w_step + panel * TILE), room + NUMBER * (panel * n + i) * TILE)
    rest = width - whole * TILE
    if rest:
        source, target = numba.carray(number_at(w), n * w_step), numba.carray(number_at(room), STRIP * TILE * n)
        for i in range(n):
            for j in range(rest):
                target[(whole * n + i) * TILE + j] = source[i * w_step + whole * TILE + j]
            for j in range(rest, TILE):
                target[(whole * n + i) * TILE + j] = 0


@compiled()
def _lay_turned(n, width, w, w_step, room):
    """The same of w [width, n], which is turned over on the way."""
    source, target = numba.carray(number_at(w), width * w_step), numba.carray(number_at(room), STRIP * TILE * n)
    whole = width // 8 * 8
    for j in range(0, whole, 8):
        panel, column = j // TILE, j % TILE
        for i in range(0, n // 8 * 8, 8):
            turn(w + NUMBER * (j * w_step + i), w_step, room + NUMBER * ((panel * n + i) * TILE + column), TILE)
        for i in range(n // 8 * 8, n):
            for k in range(8):
                target[(panel * n + i) * TILE + column + k] = source[(j + k) * w_step + i]
    for j in range(whole, -(-width // TILE) * TILE):
        panel, column = j // TILE, j % TILE
        for i in range(n):
            target[(panel * n + i) * TILE + column] = source[j * w_step + i] if j < width else np.float32(0)


@compiled()
def _lay_turned_rows(height, n, x, x_step, room):
    """Groups of `tallest()` columns of x [n, height], number by number: what one step of the inner loop multiplies."""
    for group in range(-(-height // TALLEST)):
        source, target = x + NUMBER * group * TALLEST, room + NUMBER * group * n * TALLEST
        for _ in range(n):
            copy_tallest(source, target)  # what is too much of it, the next one overwrites
            source += NUMBER * x_step
            target += NUMBER * TALLEST


@compiled()
def _put_narrow(rows, columns, source, place, step, add):
    found, target = numba.carray(number_at(source), rows * TILE), numba.carray(number_at(place), rows * step)
    for i in range(rows):
        for j in range(columns):
            target[i * step + j] = found[i * TILE + j] + (target[i * step + j] if add else np.float32(0))
