"""The three products of training against NumPy in float64, on sizes that fill no panel and on sizes that fill many."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tfgpt.native import products
from tfgpt.native.compiling import compiled
from tfgpt.native.pairs import rounded
from tfgpt.native.products import ADD, DEEP, HIGH, PUT, ROOM, STRIP, TILE

KINDS = ("plain", "w turned", "x turned")


@pytest.fixture(scope="module")
def product():
    products.ready()

    @compiled(inner=False)
    def work(kind, rows, depth, columns, x, w, out, room, add):
        given = (
            x.ctypes.data,
            x.shape[1],
            w.ctypes.data,
            w.shape[1],
            out.ctypes.data,
            out.shape[1],
            room.ctypes.data,
            add,
        )
        if kind == 0:
            products.multiply(rows, depth, columns, *given)
        elif kind == 1:
            products.multiply_by_turned(rows, depth, columns, *given)
        else:
            products.multiply_turned(rows, depth, columns, *given)

    return work


def padded(rows: int, columns: int, draw) -> np.ndarray:
    """Rows that are longer than what counts of them; what stands there must not come into the result."""
    found = draw.normal(size=(rows, columns + 16)).astype(np.float32)
    found[:, columns:] = np.nan
    return found


@pytest.mark.parametrize("of_pairs", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", range(3), ids=KINDS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        (1, 1, 1),
        (5, 3, 7),
        (6, 8, 16),
        (7, 9, 17),
        (11, 40, TILE),
        (37, DEEP + 1, 3 * TILE + 5),
        (HIGH + 5, 19, STRIP * TILE + 9),
        (2 * HIGH + 1, 2 * DEEP + 3, 2 * STRIP * TILE + 1),
        (9, 4 * DEEP + 1, TILE + 1),
        (HIGH + 5, 4 * DEEP - 1, STRIP * TILE + 9),
    ],
)
def test_products_are_those_of_numpy(product, kind, rows, depth, columns, of_pairs):
    draw = np.random.default_rng(rows)
    x = padded(*((depth, rows) if kind == 2 else (rows, depth)), draw)
    w = padded(*((columns, depth) if kind == 1 else (depth, columns)), draw)
    given = ml_dtypes.bfloat16 if of_pairs else np.float32
    left = x[:, : rows if kind == 2 else depth].astype(given).astype(np.float64)
    right = w[:, : depth if kind == 1 else columns].astype(given).astype(np.float64)
    expected = (left.T if kind == 2 else left) @ (right.T if kind == 1 else right)
    room, out = room_for(of_pairs), padded(rows, columns, draw)
    untouched = out[:, columns:].copy()
    for use, times in ((PUT, 1), (ADD, 2), (PUT, 1)):
        product(kind, rows, depth, columns, x, w, out, room, use)
        np.testing.assert_allclose(out[:, :columns], times * expected, rtol=0, atol=2e-6 * (depth + 9))
    np.testing.assert_array_equal(out[:, columns:], untouched)


def room_for(of_pairs: bool) -> np.ndarray:
    """Where nothing but its first number means anything."""
    room = np.full(ROOM, np.nan, np.float32)
    room[0] = of_pairs
    return room


def test_numbers_are_rounded_to_bfloat16_as_others_round_them():
    """All signs and exponents, on the way between two bfloat16, near it and beside it; and what is no number."""

    @compiled(inner=False)
    def work(x, out):
        for i in range(len(x)):
            out[i] = rounded(x[i])

    high = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([high | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    out = np.zeros_like(bits)
    work(bits, out)
    with np.errstate(invalid="ignore"):
        expected = bits.view(np.float32).astype(ml_dtypes.bfloat16)
    number = ~np.isnan(bits.view(np.float32))
    assert (out[number] == expected.view(np.uint16)[number]).all()
    assert np.isnan((out[~number] << 16).astype(np.uint32).view(np.float32)).all()


def test_the_processors_own_products_of_bfloat16_are_tried(monkeypatch):
    assert products.pairs_are_right()
    monkeypatch.setattr(products, "multiply_in", lambda room, x, w, out: np.matmul(x, -w, out=out))
    assert not products.pairs_are_right()


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_a_row_is_the_same_to_the_last_bit_whatever_stands_beside_it(product, kind):
    draw = np.random.default_rng(0)
    x, w = padded(50, 50, draw), padded(50, 50, draw)
    x[:, 50:], w[:, 50:] = 0, 0
    room = np.zeros(ROOM, np.float32)

    def rows(first: int, count: int) -> np.ndarray:
        out = np.zeros((count, 66), np.float32)
        part = np.ascontiguousarray(x[:, first : first + count + 16]) if kind == 2 else x[first : first + count]
        product(kind, count, 50, 50, part, w, out, room, PUT)
        return out[:, :50]

    whole = rows(0, 50)
    for first, count in ((0, 1), (3, 5), (20, 13), (49, 1)):
        np.testing.assert_array_equal(rows(first, count), whole[first : first + count])


OTHER = """
import sys, pytest
from tfgpt.native import compiling, vectors
compiling.kept_in = lambda: None  # what is compiled here is not kept: it is for another processor
other = not vectors.wide()
vectors.wide = lambda: other
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1], "-k", "not other_width"]))
"""


def test_the_loops_for_registers_of_the_other_width_too():
    """Those with and without AVX-512: the compiler makes either run anywhere, if slowly."""
    done = subprocess.run([sys.executable, "-c", OTHER, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
