"""One block of a GPT in training: some rows of tokens forward and back, and some rows of a weight's gradient.

The same mathematics as `tfgpt.model.block`, written out number by number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt.native.compiling import compiled
from tfgpt.native.dropout import PROJECTION, WHOLE_MLP, drop, drop_and_add, key_of
from tfgpt.native.products import ADD, NUMBER, PUT, multiply, multiply_by_turned, multiply_turned
from tfgpt.native.rows import (
    at,
    begin_with,
    begin_with_sum,
    bend,
    bend_back,
    line_at,
    normalise,
    normalise_back,
)

# Columns of `weights` and of `gradients`: addresses of a block's, in GPT-2's order.
LN_1, LN_1_BIAS, ATTN, ATTN_BIAS, PROJ, PROJ_BIAS, LN_2, LN_2_BIAS, FC, FC_BIAS, MLP, MLP_BIAS = range(12)
TABLE, POSITIONS, LAST, LAST_BIAS = range(4)  # those of the ends


class Kept(NamedTuple):
    """What the way forward leaves for the way back. Rows are tokens; each is a little longer than what it holds."""

    x: np.ndarray  # [blocks + 1, N, E]: into each block, and out of the last
    qkv: np.ndarray  # [blocks or 1, N, 3 E]
    merged: np.ndarray  # [blocks or 1, N, E]: what attention gave
    divisor: np.ndarray  # [blocks or 1, N, heads]: logarithm of what softmax divided by
    middle: np.ndarray  # [blocks or 1, N, E]: between attention and MLP
    inner: np.ndarray  # [blocks or 1, N, 4 E]: into the GELU


class Room(NamedTuple):
    """What one block after the other works in."""

    first: (
        np.ndarray
    )  # [N, E]: the first LayerNorm's output; on the way back, until that is made again, gradients of `merged`
    second: np.ndarray  # [N, E]: the second one's
    active: np.ndarray  # [N, 4 E]: out of the GELU
    dinner: np.ndarray  # [N, 4 E]: gradients, named after what they are of
    dfirst: np.ndarray  # [N, E]
    dsecond: np.ndarray  # [N, E]
    dmiddle: np.ndarray  # [N, E]
    dqkv: np.ndarray  # [N, 3 E]
    dx: np.ndarray  # [2, N, E]: into and out of a block, by turns
    dropped: np.ndarray  # [2, N, E], with dropout: gradients of what a half of a block added
    logits: np.ndarray  # [some N, rows of the table]
    own: np.ndarray  # [threads, ROOM]: for products
    scores: np.ndarray  # [threads, 2, LOOK, T]
    losses: np.ndarray  # [N] float64


@compiled()
def into_attention(begin, end, width, weights, x, first, qkv, room):
    """The first LayerNorm, queries, keys and values."""
    normalise(begin, end, width, x, line_at(weights[LN_1], width), line_at(weights[LN_1_BIAS], width), first)
    begin_with(begin, end, 3 * width, line_at(weights[ATTN_BIAS], 3 * width), qkv)
    multiply(
        end - begin, width, 3 * width, at(first, begin, 0), first.shape[1], weights[ATTN], 3 * width,
        at(qkv, begin, 0), qkv.shape[1], room, ADD,
    )  # fmt: skip


@compiled()
def out_of_attention(begin, end, width, weights, x, merged, middle, second, inner, active, y, room, exact, drops, i):
    """What attention gave, projected; and the whole MLP."""
    rate, limit = drops.rates[2], drops.limits[2]
    if rate > 0:
        begin_with(begin, end, width, line_at(weights[PROJ_BIAS], width), middle)
    else:
        begin_with_sum(begin, end, width, line_at(weights[PROJ_BIAS], width), x, middle)
    multiply(
        end - begin, width, width, at(merged, begin, 0), merged.shape[1], weights[PROJ], width,
        at(middle, begin, 0), middle.shape[1], room, ADD,
    )  # fmt: skip
    if rate > 0:
        drop_and_add(begin, end, width, x, key_of(drops, i, PROJECTION), limit, rate, middle)
    normalise(begin, end, width, middle, line_at(weights[LN_2], width), line_at(weights[LN_2_BIAS], width), second)
    begin_with(begin, end, 4 * width, line_at(weights[FC_BIAS], 4 * width), inner)
    multiply(
        end - begin, width, 4 * width, at(second, begin, 0), second.shape[1], weights[FC], 4 * width,
        at(inner, begin, 0), inner.shape[1], room, ADD,
    )  # fmt: skip
    bend(begin, end, 4 * width, inner, active, exact)
    if rate > 0:
        begin_with(begin, end, width, line_at(weights[MLP_BIAS], width), y)
    else:
        begin_with_sum(begin, end, width, line_at(weights[MLP_BIAS], width), middle, y)
    multiply(
        end - begin, 4 * width, width, at(active, begin, 0), active.shape[1], weights[MLP], width,
        at(y, begin, 0), y.shape[1], room, ADD,
    )  # fmt: skip
    if rate > 0:
        drop_and_add(begin, end, width, middle, key_of(drops, i, WHOLE_MLP), limit, rate, y)


@compiled()
def back_to_attention(
    begin, end, width, weights, dy, middle, second, inner, active, dinner, dsecond, dmiddle, dmerged, room, exact,
    drops, i, dropped_y, dropped_middle,
):  # fmt: skip
    """Back through the MLP to what attention gave; what the weights' gradients need is made again on the way."""
    rate, limit = drops.rates[2], drops.limits[2]
    if rate > 0:
        drop(begin, end, width, dy, key_of(drops, i, WHOLE_MLP), limit, rate, dropped_y)
    multiply_by_turned(
        end - begin, width, 4 * width, at(dropped_y, begin, 0), dropped_y.shape[1], weights[MLP], width,
        at(dinner, begin, 0), dinner.shape[1], room, PUT,
    )  # fmt: skip
    bend_back(begin, end, 4 * width, inner, active, dinner, exact)
    multiply_by_turned(
        end - begin, 4 * width, width, at(dinner, begin, 0), dinner.shape[1], weights[FC], 4 * width,
        at(dsecond, begin, 0), dsecond.shape[1], room, PUT,
    )  # fmt: skip
    weight, bias = line_at(weights[LN_2], width), line_at(weights[LN_2_BIAS], width)
    normalise(begin, end, width, middle, weight, bias, second)
    normalise_back(begin, end, width, middle, weight, dsecond, dy, dmiddle)
    if rate > 0:
        drop(begin, end, width, dmiddle, key_of(drops, i, PROJECTION), limit, rate, dropped_middle)
    multiply_by_turned(
        end - begin, width, width, at(dropped_middle, begin, 0), dropped_middle.shape[1], weights[PROJ], width,
        at(dmerged, begin, 0), dmerged.shape[1], room, PUT,
    )  # fmt: skip


@compiled()
def back_from_attention(begin, end, width, weights, x, first, dqkv, dfirst, dmiddle, dx, room):
    """Back through queries, keys, values and the first LayerNorm."""
    multiply_by_turned(
        end - begin, 3 * width, width, at(dqkv, begin, 0), dqkv.shape[1], weights[ATTN], 3 * width,
        at(dfirst, begin, 0), dfirst.shape[1], room, PUT,
    )  # fmt: skip
    weight, bias = line_at(weights[LN_1], width), line_at(weights[LN_1_BIAS], width)
    normalise(begin, end, width, x, weight, bias, first)
    normalise_back(begin, end, width, x, weight, dfirst, dmiddle, dx)


@compiled()
def weigh(unit, high, count, rows, columns, x, dy, gradient, fresh, room):
    """The gradient [rows, columns] of a matrix, `high` rows of it: what went in, turned over, times what came back."""
    if gradient == 0:
        return
    begin = unit * high
    end = min(begin + high, rows)
    multiply_turned(
        end - begin, count, columns, at(x, 0, begin), x.shape[1], at(dy, 0, 0), dy.shape[1],
        gradient + NUMBER * begin * columns, columns, room, PUT if fresh else ADD,
    )  # fmt: skip
