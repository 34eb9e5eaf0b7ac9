"""Products of matrices in float32 for training, one thread's share of each: small panels are laid out as they are needed.

A panel of the right matrix, `tile()` columns wide and a few hundred rows deep, stays in the first-level cache while all rows of
the left one pass by (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"). Everything is an address and a
distance from row to row, in numbers. Behind each row of a left matrix that is turned over there must be 16 numbers more, which
are read but not used.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
from llvmlite import binding
from numba import types

from tfgpt.native.compiling import compiled, outer
from tfgpt.native.vectors import copy_tallest, copy_tile, number_at, put_tile, put_turned_tile, tallest, tile, turn

TALLEST, TILE = tallest(), tile()

DEEP = 256  # rows of a panel
STRIP = 8  # panels that are laid out at a time, so that what is read of a row is more than a cache line
HIGH = 32 * TALLEST  # rows of the left matrix that stay in the second-level cache
ROOM = STRIP * TILE * DEEP + HIGH * DEEP + TALLEST * TILE + 16  # numbers that a thread needs to work in
NUMBER = 4  # bytes
PLAIN, X_TURNED, W_TURNED = 0, 1, 2  # what is turned over
PUT, ADD = np.arange(2)  # what becomes of a product; of plain numbers numba would compile callers anew for each
SYMBOL = "tfgpt_product"

_product = types.ExternalFunction(SYMBOL, types.void(*[types.intp] * 12))


@cache
def ready() -> None:
    """Compile the products, or find them compiled; to be called before anything that uses them."""
    binding.add_symbol(SYMBOL, outer(_product_of, 12).address)


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
    parts = -(-depth // DEEP)
    laid_rows, narrow = room + NUMBER * STRIP * TILE * DEEP, room + NUMBER * (STRIP * TILE * DEEP + HIGH * DEEP + 16)
    for part in range(parts):
        first, behind = depth * part // parts, depth * (part + 1) // parts
        n, adds = behind - first, add + part
        for top in range(0, rows, HIGH):
            height = min(HIGH, rows - top)
            if kind == X_TURNED:
                _lay_rows(height, n, x + NUMBER * (first * x_step + top), x_step, laid_rows)
            for left in range(0, columns, STRIP * TILE):
                width = min(STRIP * TILE, columns - left)
                if kind == W_TURNED:
                    _lay_turned(n, width, w + NUMBER * (left * w_step + first), w_step, room)
                else:
                    _lay_columns(n, width, w + NUMBER * (first * w_step + left), w_step, room)
                for begin in range(0, width, TILE):
                    panel, used = room + NUMBER * begin * n, min(TILE, width - begin)
                    row = 0
                    while row < height:
                        some = min(TALLEST, height - row)
                        while some & (some - 1) and some < TALLEST:
                            some &= some - 1  # the largest power of two in it
                        place = out + NUMBER * ((top + row) * out_step + left + begin)
                        # A panel may be wider than what it has to do.
                        target, step, more = (place, out_step, adds) if used == TILE else (narrow, TILE, 0)
                        if kind == X_TURNED:
                            group = row // TALLEST * TALLEST
                            source = laid_rows + NUMBER * (group * n + row - group)
                            put_turned_tile(some, source, TALLEST, panel, n, target, step, more)
                        else:
                            source = x + NUMBER * ((top + row) * x_step + first)
                            put_tile(some, source, x_step, panel, n, target, step, more)
                        if used < TILE:
                            _put_narrow(some, used, target, place, out_step, adds)
                        row += some


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
def _lay_rows(height, n, x, x_step, room):
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
