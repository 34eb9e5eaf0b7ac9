"""What training does with whole rows of numbers: LayerNorm, GELU, sums over tokens, forward and back.

Rows are counted from `begin` to behind `end`; of each the first `width` numbers count.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tfgpt.native.arithmetic import (
    EPSILON,
    HALF,
    NOUGHT,
    ONE,
    ROOT_HALF,
    TANH_A,
    TANH_B,
    exponential,
    squares_of,
    total_of,
)
from tfgpt.native.compiling import compiled
from tfgpt.native.products import NUMBER
from tfgpt.native.vectors import number_at

SLOPE_A, SLOPE_B = np.float32(math.sqrt(2 / math.pi)), np.float32(3 * 0.044715)
ERF_SLOPE = np.float32(math.sqrt(0.5 / math.pi))


@compiled()
def matrix_at(address, rows, step):
    """An array [rows, step] there."""
    return numba.carray(number_at(address), (rows, step))


@compiled()
def line_at(address, length):
    """An array [length] there."""
    return numba.carray(number_at(address), length)


@compiled()
def at(x, row, column):
    """The address of x[row, column]."""
    return np.intp(x.ctypes.data) + NUMBER * (row * x.shape[1] + column)


@compiled()
def normalise(begin, end, width, x, weight, bias, out):
    """LayerNorm of rows of x."""
    for row in range(begin, end):
        mean = total_of(x, row, 0, width) / np.float32(width)
        rate = ONE / np.sqrt(squares_of(x, row, mean, width) / np.float32(width) + EPSILON)
        for j in range(np.uint64(width)):
            out[row, j] = (x[row, j] - mean) * rate * weight[j] + bias[j]


@compiled("reassoc", "nsz")
def normalise_back(begin, end, width, x, weight, dy, more, out):
    """Rows of `out`: those of `more`, and the gradient of a LayerNorm's input x, where `dy` is that of its output."""
    for row in range(begin, end):
        mean = total_of(x, row, 0, width) / np.float32(width)
        rate = ONE / np.sqrt(squares_of(x, row, mean, width) / np.float32(width) + EPSILON)
        total, product = np.float32(0), np.float32(0)
        for j in range(np.uint64(width)):
            d = dy[row, j] * weight[j]
            total += d
            product += d * (x[row, j] - mean) * rate
        total /= np.float32(width)
        product /= np.float32(width)
        for j in range(np.uint64(width)):
            d = dy[row, j] * weight[j]
            out[row, j] = more[row, j] + (d - total - (x[row, j] - mean) * rate * product) * rate


@compiled()
def begin_with(begin, end, width, bias, out):
    """Rows of `out` begin as the bias, to which a product is then added."""
    for row in range(begin, end):
        for j in range(np.uint64(width)):
            out[row, j] = bias[j]


@compiled()
def begin_with_sum(begin, end, width, bias, x, out):
    """Rows of `out` begin as those of x and the bias."""
    for row in range(begin, end):
        for j in range(np.uint64(width)):
            out[row, j] = x[row, j] + bias[j]


@compiled()
def clear(begin, end, width, out):
    """Rows of zeros."""
    for row in range(begin, end):
        for j in range(np.uint64(width)):
            out[row, j] = NOUGHT


@compiled()
def clear_part(begin, end, first, width, out):
    """Zeros into some columns of some rows."""
    for row in range(begin, end):
        for j in range(np.uint64(first), np.uint64(first + width)):
            out[row, j] = NOUGHT


@compiled()
def bend(begin, end, width, x, out, exact):
    """GELU of rows of x."""
    for row in range(begin, end):
        if exact:
            for j in range(np.uint64(width)):
                out[row, j] = HALF * x[row, j] * (ONE + math.erf(x[row, j] * ROOT_HALF))
        else:  # (1 + tanh(u)) / 2 is 1 / (1 + exp(-2 u))
            for j in range(np.uint64(width)):
                v = x[row, j]
                out[row, j] = v / (ONE + exponential(TANH_A * (v + TANH_B * v * v * v)))


@compiled()
def bend_back(begin, end, width, x, out, d, exact):
    """GELU of rows of x again, and its slope times what stands in `d`."""
    for row in range(begin, end):
        if exact:
            for j in range(np.uint64(width)):
                v = x[row, j]
                share = HALF * (ONE + math.erf(v * ROOT_HALF))
                out[row, j] = v * share
                d[row, j] *= share + v * exponential(-HALF * v * v) * ERF_SLOPE
        else:
            for j in range(np.uint64(width)):
                v = x[row, j]
                share = ONE / (ONE + exponential(TANH_A * (v + TANH_B * v * v * v)))
                out[row, j] = v * share
                d[row, j] *= share + np.float32(2) * v * share * (ONE - share) * SLOPE_A * (ONE + SLOPE_B * v * v)


@compiled()
def add_up(first, behind, count, dy, gradient, fresh):
    """The gradient of a bias, from column `first` to `behind`."""
    sums = line_at(gradient, behind)
    if fresh:
        for j in range(np.uint64(first), np.uint64(behind)):
            sums[j] = 0
    for row in range(count):
        for j in range(np.uint64(first), np.uint64(behind)):
            sums[j] += dy[row, j]


@compiled()
def add_up_norm(first, behind, width, count, x, dy, gradient, fresh):
    """The gradient of a LayerNorm's weight, of some columns."""
    sums = line_at(gradient, behind)
    if fresh:
        for j in range(np.uint64(first), np.uint64(behind)):
            sums[j] = 0
    for row in range(count):
        mean = total_of(x, row, 0, width) / np.float32(width)
        rate = ONE / np.sqrt(squares_of(x, row, mean, width) / np.float32(width) + EPSILON)
        for j in range(np.uint64(first), np.uint64(behind)):
            sums[j] += (x[row, j] - mean) * rate * dy[row, j]
