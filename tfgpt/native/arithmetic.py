"""Small compiled functions of a number or of a row of an array, which are put into whatever calls them."""

from __future__ import annotations

import math

import numpy as np

from tfgpt.native.compiling import compiled
from tfgpt.native.vectors import power_of_two

NOUGHT, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
EPSILON = np.float32(1e-5)  # GPT-2's
LOWEST, HIGHEST = np.float32(-87), np.float32(88)
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
ROUNDER = np.float32(1.5 * 2**23)
TANH_A, TANH_B, ROOT_HALF = np.float32(-2 * math.sqrt(2 / math.pi)), np.float32(0.044715), np.float32(math.sqrt(0.5))
# exp between -ln(2)/2 and +ln(2)/2 (Cephes)
C0, C1, C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C3, C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@compiled()
def exponential(x):
    """exp(x) to a unit in the last place or two; arithmetic only, so that loops over it become vectors."""
    # Not with min and max, from which what is no number would come out as one.
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = x - n * LN2_HIGH - n * LN2_LOW
    series = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
    return (series * r * r + r + ONE) * power_of_two(shifted)


@compiled("reassoc", "nsz")
def total_of(x, row, first, behind):
    """The sum of a part of a row."""
    # Without a sign: a number below zero would count from the end, and a loop that has to ask does not become vectors.
    total = np.float32(0)
    for j in range(np.uint64(first), np.uint64(behind)):
        total += x[row, j]
    return total


@compiled("reassoc", "nsz")
def squares_of(x, row, mean, width):
    """The sum of squared differences to the mean."""
    total = np.float32(0)
    for j in range(width):
        total += (x[row, j] - mean) * (x[row, j] - mean)
    return total


@compiled("reassoc", "nnan", "nsz")
def largest_of(x, row, first, behind):
    """The largest number of a part of a row."""
    top = x[row, first]
    for j in range(np.uint64(first), np.uint64(behind)):
        top = max(top, x[row, j])
    return top


@compiled("reassoc", "nsz")
def product_of(x, y, row, first, width):
    """The sum of products of two rows of the same number."""
    total = np.float32(0)
    for j in range(np.uint64(first), np.uint64(first + width)):
        total += x[row, j] * y[row, j]
    return total
