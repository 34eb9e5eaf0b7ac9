"""A GPT forward, compiled: rows of tokens, each at the next place of its slot, through all blocks, by a team of threads.

A row's numbers are the same to the last bit whatever other rows there are: every sum in here runs over a row of its own, in
an order that hangs on nothing but the model and the row's place in its text.
"""

from __future__ import annotations

import math

import numpy as np

from tfgpt.native.arithmetic import (
    EPSILON,
    HALF,
    ONE,
    ROOT_HALF,
    TANH_A,
    TANH_B,
    exponential,
    largest_of,
    squares_of,
    total_of,
)
from tfgpt.native.compiling import compiled
from tfgpt.native.team import wait
from tfgpt.native.vectors import PANEL, add_product, number_of, tallest

# What becomes of a product. Of plain numbers numba would compile every function anew that is called with another one.
STORE, ADD, GELU_TANH, GELU = np.arange(4)
ROWS, SLOT, PLACE, FIRST = range(
    4
)  # lines of `texts`: how many rows; of which slot, from which place on; from which row on
KEYS, VALUES, PLACES, SPAN, SHIFT, WINDOW = 0, 1, 2, 3, 4, 5  # lines of `reach`, a column for each block
TALLEST = tallest()
DEEP = 768  # rows of a panel that are worked in one go, so that it stays in the second-level cache
KEPT = 1 << 16  # numbers of x that shall stay there beside it
TOGETHER = 4 * TALLEST  # queries that look at the same keys and values while these are in the first-level cache
AT_ONCE = 128  # values looked at in one go, for the same reason

ONLY = np.int64(0)  # the number of a block where there is one


@compiled()
def clear(x, rows, columns):
    """Zeros into the first of each."""
    for row in range(rows):
        for j in range(columns):
            x[row, j] = 0


@compiled()
def embed(me, count, ids, places, table, positions, x):
    """Rows of x: what stands for the tokens, and for their places."""
    width = positions.shape[1]
    for row in range(me, len(ids), count):
        panel, column, scale = ids[row] // PANEL, ids[row] % PANEL, table.scale[0, ids[row]]
        for j in range(width):
            x[row, j] = number_of(table.matrix[0, panel, j, column]) * scale + positions[places[row], j]


@compiled()
def normalise(me, count, chosen, x, norms, out):
    """LayerNorm of each chosen row of x, into as many rows of `out`; norms [2, width] are its weight and its bias."""
    width = norms.shape[1]
    for i in range(me, len(chosen), count):
        row = chosen[i]
        mean = total_of(x, row, 0, width) / np.float32(width)
        rate = ONE / np.sqrt(squares_of(x, row, mean, width) / np.float32(width) + EPSILON)
        for j in range(width):
            out[i, j] = (x[row, j] - mean) * rate * norms[0, j] + norms[1, j]


@compiled(inner=False)
def multiply(me, count, rows, x, dense, block, out, sums, use):
    """x [rows, n] times a matrix in panels [m / 32, n, 32], scaled, with its bias; `use` says what becomes of it in `out`.

    `sums` is room of this thread's own. Each thread takes a share of the panels, which it reads once for as many rows as stay in
    its cache.
    """
    _, panels, n, _ = dense.matrix.shape
    size = dense.matrix.itemsize * PANEL
    first_panel, last_panel = panels * me // count, panels * (me + 1) // count
    many = max(TALLEST, min(len(sums), KEPT // min(n, DEEP)) // TALLEST * TALLEST)
    for top in range(0, rows, many):
        height = min(many, rows - top)
        groups = -(-height // TALLEST)
        for panel in range(first_panel, last_panel):
            clear(sums, height, PANEL)
            for first in range(0, n, DEEP):
                for group in range(groups):
                    begin, end = height * group // groups, height * (group + 1) // groups
                    add_product(
                        end - begin,
                        x.ctypes.data + 4 * ((top + begin) * x.shape[1] + first),
                        x.shape[1],
                        dense.matrix.ctypes.data + ((block * panels + panel) * n + first) * size,
                        min(DEEP, n - first),
                        sums.ctypes.data + 4 * begin * PANEL,
                        PANEL,
                        dense.matrix,
                    )
            for row in range(height):
                leave(sums, row, dense, block, panel * PANEL, out, top + row, use)


@compiled()
def leave(sums, row, dense, block, left, out, place, use):
    """32 numbers of a product, those from column `left` on, to their place."""
    left = np.uint64(left)
    for j in range(np.uint64(PANEL)):
        sums[row, j] = sums[row, j] * dense.scale[block, left + j] + dense.bias[block, left + j]
    if use == STORE:
        for j in range(np.uint64(PANEL)):
            out[place, left + j] = sums[row, j]
    elif use == ADD:
        for j in range(np.uint64(PANEL)):
            out[place, left + j] += sums[row, j]
    elif use == GELU_TANH:  # 1 + tanh(u) is 2 / (1 + exp(-2 u))
        for j in range(np.uint64(PANEL)):
            x = sums[row, j]
            out[place, left + j] = x / (ONE + exponential(TANH_A * (x + TANH_B * x * x * x)))
    else:
        for j in range(np.uint64(PANEL)):
            x = sums[row, j]
            out[place, left + j] = HALF * x * (ONE + math.erf(x * ROOT_HALF))


@compiled()
def attend(me, count, texts, heads, width, qkv, cache, reach, out, scores, sums):
    """Write the rows' keys and values, and let each row attend to what its slot holds and to itself.

    A thread takes whole heads of a text, so that nobody waits. Rows are worked together as long as they are in one span.
    """
    depth = width // heads
    panels = -(-depth // PANEL)
    places, span, shift, window = reach[PLACES], reach[SPAN], reach[SHIFT], reach[WINDOW]
    factor = ONE / np.sqrt(np.float32(depth))
    for unit in range(me, texts.shape[1] * heads, count):
        text, head = unit // heads, unit % heads
        own = texts[SLOT, text] * heads + head
        keys = reach[KEYS] + own * places * depth
        values = reach[VALUES] + own * places * panels * PANEL
        done = 0
        while done < texts[ROWS, text]:
            place, row = texts[PLACE, text] + done, texts[FIRST, text] + done
            index = (place + shift) % span
            height = min(min(texts[ROWS, text] - done, TOGETHER), span - index)
            groups = -(-height // TALLEST)
            for i in range(height):
                at = index + i
                for j in range(depth):
                    key, value = qkv[row + i, width + head * depth + j], qkv[row + i, 2 * width + head * depth + j]
                    cache.keys[keys + (at // PANEL * depth + j) * PANEL + at % PANEL] = key
                    cache.values[values + (j // PANEL * places + at) * PANEL + j % PANEL] = value
            beginning = shift if place + shift < span else 0  # of the span that these rows are in
            lowest, behind = max(beginning, index - window + 1), index + height
            start = lowest // PANEL * PANEL
            clear(scores, height, -(-(behind - start) // PANEL) * PANEL)
            for at in range(start, behind, PANEL):
                for group in range(groups):
                    begin, end = height * group // groups, height * (group + 1) // groups
                    add_product(
                        end - begin,
                        qkv.ctypes.data + 4 * ((row + begin) * qkv.shape[1] + head * depth),
                        qkv.shape[1],
                        cache.keys.ctypes.data + 4 * (keys + at * depth),
                        depth,
                        scores.ctypes.data + 4 * (begin * scores.shape[1] + at - start),
                        scores.shape[1],
                        cache.keys,
                    )
            for i in range(height):
                first = max(beginning, index + i - window + 1)
                soften(scores, i, first - start, index + i + 1 - start, behind - start, factor)
            for panel in range(panels):
                clear(sums, height, PANEL)
                for at in range(lowest, behind, AT_ONCE):
                    for group in range(groups):
                        begin, end = height * group // groups, height * (group + 1) // groups
                        add_product(
                            end - begin,
                            scores.ctypes.data + 4 * (begin * scores.shape[1] + at - start),
                            scores.shape[1],
                            cache.values.ctypes.data + 4 * (values + (panel * places + at) * PANEL),
                            min(AT_ONCE, behind - at),
                            sums.ctypes.data + 4 * begin * PANEL,
                            PANEL,
                            cache.values,
                        )
                left = panel * PANEL
                for i in range(height):
                    for j in range(min(PANEL, depth - left)):
                        out[row + i, head * depth + left + j] = sums[i, j]
            done += height


@compiled()
def soften(scores, row, first, behind, end, factor):
    """Softmax of a row of scores between `first` and `behind`; up to `end` there are zeros around it."""
    top = largest_of(scores, row, first, behind) * factor
    for j in range(first):
        scores[row, j] = 0
    for j in range(np.uint64(first), np.uint64(behind)):
        scores[row, j] = exponential(scores[row, j] * factor - top)
    rate = ONE / total_of(scores, row, first, behind)
    for j in range(np.uint64(first), np.uint64(behind)):
        scores[row, j] *= rate
    for j in range(np.uint64(behind), np.uint64(end)):
        scores[row, j] = 0


@compiled(inner=False)
def forward(me, count, meeting, model, cache, room, ids, places, texts, heads, gelu, wanted):
    """Rows of tokens through the model: their keys and values into the cache, logits of the `wanted` ones into the room.

    All rows must fit into the room; the rows of a text stand one behind the other.
    """
    rows, width = len(ids), model.positions.shape[1]
    x, inner, wide, sums, scores = room.x, room.inner, room.wide, room.sums[me], room.scores[me]
    embed(me, count, ids, places, model.head, model.positions, x)
    wait(count, meeting)
    for i in range(len(model.norms)):
        normalise(me, count, room.all[:rows], x, model.norms[i, :2], inner)
        wait(count, meeting)
        multiply(me, count, rows, inner, model.c_attn, i, wide, sums, STORE)
        wait(count, meeting)
        attend(me, count, texts, heads, width, wide, cache, model.reach[:, i], inner, scores, sums)
        wait(count, meeting)
        multiply(me, count, rows, inner, model.c_proj, i, x, sums, ADD)
        wait(count, meeting)
        normalise(me, count, room.all[:rows], x, model.norms[i, 2:], inner)
        wait(count, meeting)
        multiply(me, count, rows, inner, model.c_fc, i, wide, sums, gelu)
        wait(count, meeting)
        multiply(me, count, rows, wide, model.mlp_c_proj, i, x, sums, ADD)
        wait(count, meeting)
    normalise(me, count, wanted, x, model.last, inner)
    wait(count, meeting)
    multiply(me, count, len(wanted), inner, model.head, ONLY, room.logits, sums, STORE)
