"""Dropout by the hash of `tfgpt.model.randomness`: the same masks, number by number, made again whenever they are needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt.model.attention import GROUP, QUERIES
from tfgpt.native.arithmetic import NOUGHT, ONE
from tfgpt.native.compiling import compiled

HALF_WORD, ODD_BITS, FIRST_FACTOR, SECOND_FACTOR = np.array([16, 15, 0x7FEB352D, 0x846CA68B], np.uint32)


ATTENTION, PROJECTION, WHOLE_MLP = np.arange(3)  # uses of dropout in a block


class Drops(NamedTuple):
    """What is left out in one batch. Lines of `rates` and `limits`: embeddings, attention, what a half of a block adds."""

    rates: np.ndarray  # [3] float32: what stays is divided by what is missing to one
    limits: np.ndarray  # [3] uint32: a number stays if its hash is not below
    key: np.ndarray  # [2] uint32: the run's
    numbers: np.ndarray  # [3]: step, replica, micro-batch


def drops_of(rates: tuple[float, float, float], key: tuple[int, int] | None, numbers: tuple[int, int, int]) -> Drops:
    """For a batch of the run with this key; without one nothing is left out."""
    rates = rates if key else (0.0, 0.0, 0.0)
    limits = [min(round(rate * 2**32), 2**32 - 1) for rate in rates]
    given = np.array(limits, np.uint32), np.array(key or (0, 0), np.uint32), np.array(numbers, np.int64)
    return Drops(np.array(rates, np.float32), *given)


@compiled()
def mixed(x):
    """Ellis's hash of 32 bits."""
    x = np.uint32(np.uint32(x ^ np.uint32(x >> HALF_WORD)) * FIRST_FACTOR)
    x = np.uint32(np.uint32(x ^ np.uint32(x >> ODD_BITS)) * SECOND_FACTOR)
    return np.uint32(x ^ np.uint32(x >> HALF_WORD))


@compiled()
def more(key, number):
    """A key and one number more."""
    number = np.uint32(number)
    a = mixed(np.uint32(mixed(np.uint32(key[0] ^ number)) ^ key[1]))
    return a, mixed(np.uint32(key[1] + key[0]))


@compiled()
def batch_key(drops):
    """The key of the batch, which is that of the embeddings."""
    key = (drops.key[0], drops.key[1])
    for i in range(3):
        key = more(key, drops.numbers[i])
    return key


@compiled()
def key_of(drops, i, use):
    """The key of one use in block i."""
    return more(more(batch_key(drops), i + 1), use)


@compiled()
def stays(index, a, b, limit):
    """Whether the number at this place of its array stays."""
    return mixed(np.uint32(mixed(np.uint32(np.uint32(index) ^ a)) ^ b)) >= limit


@compiled()
def drop(begin, end, width, x, key, limit, rate, out):
    """Rows of `out`: those of x, without what is left out."""
    a, b, factor = key[0], key[1], ONE / (ONE - rate)
    for row in range(begin, end):
        first = np.uint32(row * width)
        for j in range(np.uint64(width)):
            out[row, j] = x[row, j] * factor if stays(first + np.uint32(j), a, b, limit) else NOUGHT


@compiled()
def drop_and_add(begin, end, width, x, key, limit, rate, out):
    """Rows of `out` without what is left out, and those of x added."""
    a, b, factor = key[0], key[1], ONE / (ONE - rate)
    for row in range(begin, end):
        first = np.uint32(row * width)
        for j in range(np.uint64(width)):
            out[row, j] = x[row, j] + (out[row, j] * factor if stays(first + np.uint32(j), a, b, limit) else NOUGHT)


@compiled()
def mask_of(text, head, heads, place, length, reach, key):
    """Of a query: the key of its mask, and the index there that its view of the text's first place would have.

    Masks are laid out as attention in `tfgpt.model.attention` works: in blocks of queries, or in groups of spans.
    """
    span, shift, window = reach
    unit = text * heads + head
    if span <= length:
        spans = -(-(length + shift) // span)
        step = max(1, GROUP // (span * span))
        own = (place + shift) // span
        group = own // step * step
        count = min(step, spans - group)
        row = (unit * count + own - group) * span + (place + shift) % span
        return more(more(key, group), 0), row * span + shift - own * span
    start = place // QUERIES * QUERIES
    stop, first = min(start + QUERIES, length), max(0, start - window + 1)
    return more(key, start), (unit * (stop - start) + place - start) * (stop - first) - first
