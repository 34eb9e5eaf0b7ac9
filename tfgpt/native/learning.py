"""The way through a GPT and back, in phases that a team of threads goes through together: loss and gradients of a batch.

Work is cut into units (some rows of tokens, a head of a text, some rows of a gradient); whoever is free takes the next one, so
a thread that the system interrupts holds nobody up for long. What a unit computes hangs on nothing but the unit, hence every
run gives the same bits on any number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt.native.arithmetic import exponential, largest_of, total_of
from tfgpt.native.attending import look, look_back
from tfgpt.native.block import (
    ATTN,
    ATTN_BIAS,
    FC,
    FC_BIAS,
    LAST,
    LAST_BIAS,
    LN_1,
    LN_1_BIAS,
    LN_2,
    LN_2_BIAS,
    MLP,
    MLP_BIAS,
    POSITIONS,
    PROJ,
    PROJ_BIAS,
    TABLE,
    back_from_attention,
    back_to_attention,
    into_attention,
    out_of_attention,
    weigh,
)  # fmt: skip
from tfgpt.native.compiling import compiled
from tfgpt.native.dropout import Drops, batch_key, drop
from tfgpt.native.products import ADD, HIGH, PUT, multiply, multiply_by_turned, multiply_turned
from tfgpt.native.rows import (
    add_up,
    add_up_norm,
    at,
    clear,
    clear_part,
    line_at,
    matrix_at,
    normalise,
    normalise_back,
)
from tfgpt.native.team import take, wait

VOCABULARY = 2048  # logits of a row that are one unit
STRIPE = 256  # columns of a sum over all tokens that are one unit
ROWS = 16  # of logits that become probabilities in one unit


class Given(NamedTuple):
    """A batch, and what stays the same from batch to batch."""

    ids: np.ndarray  # [N] of all texts, one behind the other
    labels: np.ndarray  # [N]; negative ones do not count
    begins: np.ndarray  # [texts, T]: the place where each token's document begins
    weights: np.ndarray  # [blocks, 12] addresses
    ends: np.ndarray  # [4] addresses
    gradients: np.ndarray  # [blocks, 12] addresses; 0 where nobody asks
    dends: np.ndarray  # [4]
    reach: np.ndarray  # [blocks, 3]: span, shift and window of attention
    numbers: np.ndarray  # what the next line names
    drops: Drops


(WIDTH, HEADS, EXACT, VOCAB, TABLE_ROWS, PLACES, HIGH_ROWS, CHUNK, HIGH_WEIGHTS, LOWEST, FRESH, RECOMPUTE) = np.arange(
    12
)


@compiled(inner=False)
def loss_of(me, count, meeting, counters, given, kept, room):
    """Losses of all tokens into the room; nothing is kept."""
    phase = embed(count, meeting, counters, np.int64(0), given, kept)
    for i in range(len(given.weights)):
        phase = forward(me, count, meeting, counters, phase, i, given, kept, room)
    finish(me, count, meeting, counters, phase, given, kept, room, np.float32(0), np.int64(0))


@compiled(inner=False)
def gradients_of(me, count, meeting, counters, given, kept, room, scale):
    """Losses of all tokens, and the gradients of their sum times `scale`."""
    phase = embed(count, meeting, counters, np.int64(0), given, kept)
    blocks = len(given.weights)
    for i in range(blocks):
        phase = forward(me, count, meeting, counters, phase, i, given, kept, room)
    phase = finish(me, count, meeting, counters, phase, given, kept, room, scale, np.int64(1))
    for i in range(blocks - 1, max(given.numbers[LOWEST], 0) - 1, -1):
        if given.numbers[RECOMPUTE] and i < blocks - 1:
            phase = forward(me, count, meeting, counters, phase, i, given, kept, room)
        phase = backward(me, count, meeting, counters, phase, i, given, kept, room)
    if given.numbers[LOWEST] < 0:
        embed_back(count, meeting, counters, phase, given, room)


@compiled()
def part(counters, phase, high, rows):
    """The next rows that nobody has taken yet, from the first to behind the last; none are left if both are `rows`."""
    begin = min(take(counters, phase) * high, rows)
    return begin, min(begin + high, rows)


@compiled()
def embed(count, meeting, counters, phase, given, kept):
    """Rows for tokens and their places."""
    numbers = given.numbers
    n, length, width = len(given.ids), given.begins.shape[1], numbers[WIDTH]
    table = matrix_at(given.ends[TABLE], numbers[TABLE_ROWS], width)
    positions = matrix_at(given.ends[POSITIONS], numbers[PLACES], width)
    begin, end = part(counters, phase, numbers[HIGH_ROWS], n)
    while begin < end:
        for row in range(begin, end):
            token, place = given.ids[row], row % length
            for j in range(np.uint64(width)):
                kept.x[0, row, j] = table[token, j] + positions[place, j]
        if given.drops.rates[0] > 0:
            x, drops = kept.x[0], given.drops
            drop(begin, end, width, x, batch_key(drops), drops.limits[0], drops.rates[0], x)
        begin, end = part(counters, phase, numbers[HIGH_ROWS], n)
    wait(count, meeting)
    return phase + 1


@compiled()
def forward(me, count, meeting, counters, phase, i, given, kept, room):
    """One block."""
    numbers = given.numbers
    n, width, high, own = len(given.ids), numbers[WIDTH], numbers[HIGH_ROWS], at(room.own, me, 0)
    slot = min(i, len(kept.qkv) - 1)
    begin, end = part(counters, phase, high, n)
    while begin < end:
        into_attention(begin, end, width, given.weights[i], kept.x[i], room.first, kept.qkv[slot], own)
        begin, end = part(counters, phase, high, n)
    wait(count, meeting)
    texts, length, heads = given.begins.shape[0], given.begins.shape[1], numbers[HEADS]
    reach = (given.reach[i, 0], given.reach[i, 1], given.reach[i, 2])
    unit = take(counters, phase + 1)
    while unit < texts * heads:
        look(
            unit // heads, unit % heads, length, width // heads, heads, kept.qkv[slot], given.begins, reach,
            kept.merged[slot], kept.divisor[slot], room.scores[me, 0], own, given.drops, i,
        )  # fmt: skip
        unit = take(counters, phase + 1)
    wait(count, meeting)
    begin, end = part(counters, phase + 2, high, n)
    while begin < end:
        out_of_attention(
            begin, end, width, given.weights[i], kept.x[i], kept.merged[slot], kept.middle[slot], room.second,
            kept.inner[slot], room.active, kept.x[i + 1], own, numbers[EXACT], given.drops, i,
        )  # fmt: skip
        begin, end = part(counters, phase + 2, high, n)
    wait(count, meeting)
    return phase + 3


@compiled()
def finish(me, count, meeting, counters, phase, given, kept, room, scale, back):
    """The last LayerNorm, logits of some tokens at a time, their losses; and, with `back`, their gradients."""
    numbers = given.numbers
    n, width, high, own = len(given.ids), numbers[WIDTH], numbers[HIGH_ROWS], at(room.own, me, 0)
    x, hidden, dhidden, rows = kept.x[len(given.weights)], room.first, room.dfirst, numbers[TABLE_ROWS]
    table, dtable, logits = given.ends[TABLE], given.dends[TABLE], room.logits
    weight, bias = line_at(given.ends[LAST], width), line_at(given.ends[LAST_BIAS], width)
    begin, end = part(counters, phase, high, n)
    while begin < end:
        normalise(begin, end, width, x, weight, bias, hidden)
        begin, end = part(counters, phase, high, n)
    wait(count, meeting)
    phase += 1
    strips = -(-rows // VOCABULARY)
    for first in range(0, n, numbers[CHUNK]):
        some = min(numbers[CHUNK], n - first)
        unit = take(counters, phase)
        while unit < -(-some // HIGH) * strips:
            begin, left = unit // strips * HIGH, unit % strips * VOCABULARY
            end, columns = min(begin + HIGH, some), min(VOCABULARY, rows - left)
            multiply_by_turned(
                end - begin, width, columns, at(hidden, first + begin, 0), hidden.shape[1], table + 4 * left * width, width,
                at(logits, begin, left), logits.shape[1], own, PUT,
            )  # fmt: skip
            unit = take(counters, phase)
        wait(count, meeting)
        begin, end = part(counters, phase + 1, ROWS, some)
        while begin < end:
            lose(begin, end, first, numbers[VOCAB], rows, logits, given.labels, room.losses, scale)
            begin, end = part(counters, phase + 1, ROWS, some)
        wait(count, meeting)
        if back:
            into_rows, into_table = -(-some // high), -(-rows // HIGH) if dtable else 0
            unit = take(counters, phase + 2)
            while unit < into_rows + into_table:
                if unit < into_rows:
                    begin, end = unit * high, min(unit * high + high, some)
                    multiply(
                        end - begin, rows, width, at(logits, begin, 0), logits.shape[1], table, width,
                        at(dhidden, first + begin, 0), dhidden.shape[1], own, PUT,
                    )  # fmt: skip
                else:
                    begin = (unit - into_rows) * HIGH
                    end = min(begin + HIGH, rows)
                    use = PUT if numbers[FRESH] and first == 0 else ADD
                    multiply_turned(
                        end - begin, some, width, at(logits, 0, begin), logits.shape[1], at(hidden, first, 0),
                        hidden.shape[1], dtable + 4 * begin * width, width, own, use,
                    )  # fmt: skip
                unit = take(counters, phase + 2)
            wait(count, meeting)
        phase += 3
    if back:
        begin, end = part(counters, phase, high, n)
        while begin < end:
            clear(begin, end, width, room.dx[0])
            normalise_back(begin, end, width, x, weight, dhidden, room.dx[0], room.dx[0])
            begin, end = part(counters, phase, high, n)
        first, behind = part(counters, phase + 1, STRIPE, width)
        while first < behind:
            if given.dends[LAST]:
                add_up_norm(first, behind, width, n, x, dhidden, given.dends[LAST], numbers[FRESH])
            if given.dends[LAST_BIAS]:
                add_up(first, behind, n, dhidden, given.dends[LAST_BIAS], numbers[FRESH])
            first, behind = part(counters, phase + 1, STRIPE, width)
        wait(count, meeting)
        phase += 2
    return phase


@compiled()
def lose(begin, end, first, n_vocab, rows, logits, labels, losses, scale):
    """Losses of rows of logits, which become their own gradients."""
    for i in range(begin, end):
        label = labels[first + i]
        if label < 0:
            losses[first + i] = 0
            for j in range(np.uint64(rows)):
                logits[i, j] = 0
            continue
        top, right = largest_of(logits, i, 0, n_vocab), logits[i, label]
        for j in range(np.uint64(n_vocab)):
            logits[i, j] = exponential(logits[i, j] - top)
        total = total_of(logits, i, 0, n_vocab)
        losses[first + i] = np.log(total) + top - right
        share = scale / total
        for j in range(np.uint64(n_vocab)):
            logits[i, j] *= share
        for j in range(np.uint64(n_vocab), np.uint64(rows)):  # what pads the table is no token
            logits[i, j] = 0
        logits[i, label] -= scale


@compiled()
def backward(me, count, meeting, counters, phase, i, given, kept, room):
    """One block, back: gradients of its weights and of what went into it."""
    numbers = given.numbers
    n, width, high, own = len(given.ids), numbers[WIDTH], numbers[HIGH_ROWS], at(room.own, me, 0)
    slot, turn = min(i, len(kept.qkv) - 1), (len(given.weights) - 1 - i) % 2
    dy, dx = room.dx[turn], room.dx[1 - turn]
    dropped_y, dropped_middle = dy, room.dmiddle
    if given.drops.rates[2] > 0:
        dropped_y, dropped_middle = room.dropped[0], room.dropped[1]
    begin, end = part(counters, phase, high, n)
    while begin < end:
        back_to_attention(
            begin, end, width, given.weights[i], dy, kept.middle[slot], room.second, kept.inner[slot], room.active,
            room.dinner, room.dsecond, room.dmiddle, room.first, own, numbers[EXACT], given.drops, i, dropped_y,
            dropped_middle,
        )  # fmt: skip
        begin, end = part(counters, phase, high, n)
    wait(count, meeting)
    texts, length, heads = given.begins.shape[0], given.begins.shape[1], numbers[HEADS]
    reach = (given.reach[i, 0], given.reach[i, 1], given.reach[i, 2])
    unit = take(counters, phase + 1)
    while unit < texts * heads:
        look_back(
            unit // heads, unit % heads, length, width // heads, heads, kept.qkv[slot], given.begins, reach,
            kept.merged[slot], room.first, kept.divisor[slot], room.dqkv, room.scores[me, 0], room.scores[me, 1], own,
            given.drops, i,
        )  # fmt: skip
        unit = take(counters, phase + 1)
    wait(count, meeting)
    begin, end = part(counters, phase + 2, high, n)
    while begin < end:
        back_from_attention(
            begin, end, width, given.weights[i], kept.x[i], room.first, room.dqkv, room.dfirst, room.dmiddle, dx, own
        )
        begin, end = part(counters, phase + 2, high, n)
    wait(count, meeting)
    narrow, wide = -(-width // numbers[HIGH_WEIGHTS]), -(-4 * width // numbers[HIGH_WEIGHTS])
    unit = take(counters, phase + 3)
    while weigh_one(unit, narrow, wide, n, width, given, i, kept.merged[slot], room, dropped_y, dropped_middle, own):
        unit = take(counters, phase + 3)
    first, behind = part(counters, phase + 4, STRIPE, 4 * width)
    while first < behind:
        add_all(first, behind, n, width, given, i, kept.x[i], kept.middle[slot], room, dropped_y, dropped_middle)
        first, behind = part(counters, phase + 4, STRIPE, 4 * width)
    wait(count, meeting)
    return phase + 5


@compiled()
def weigh_one(unit, narrow, wide, n, width, given, i, merged, room, dropped_y, dropped_middle, own):
    """Some rows of the gradient of one of a block's four matrices, the largest first; whether there was a unit of this number."""
    high, fresh, gradients = given.numbers[HIGH_WEIGHTS], given.numbers[FRESH], given.gradients[i]
    if unit < narrow:
        weigh(unit, high, n, width, 4 * width, room.second, room.dinner, gradients[FC], fresh, own)
    elif unit < 2 * narrow:
        weigh(unit - narrow, high, n, width, 3 * width, room.first, room.dqkv, gradients[ATTN], fresh, own)
    elif unit < 2 * narrow + wide:
        weigh(unit - 2 * narrow, high, n, 4 * width, width, room.active, dropped_y, gradients[MLP], fresh, own)
    elif unit < 3 * narrow + wide:
        weigh(unit - 2 * narrow - wide, high, n, width, width, merged, dropped_middle, gradients[PROJ], fresh, own)
    else:
        return False
    return True


@compiled()
def add_all(first, behind, n, width, given, i, x, middle, room, dropped_y, dropped_middle):
    """Gradients of a block's vectors, of those columns that they have between `first` and `behind`."""
    fresh, gradients = given.numbers[FRESH], given.gradients[i]
    if gradients[FC_BIAS]:
        add_up(first, behind, n, room.dinner, gradients[FC_BIAS], fresh)
    if first < 3 * width and gradients[ATTN_BIAS]:
        add_up(first, min(behind, 3 * width), n, room.dqkv, gradients[ATTN_BIAS], fresh)
    if first >= width:
        return
    behind = min(behind, width)
    if gradients[MLP_BIAS]:
        add_up(first, behind, n, dropped_y, gradients[MLP_BIAS], fresh)
    if gradients[PROJ_BIAS]:
        add_up(first, behind, n, dropped_middle, gradients[PROJ_BIAS], fresh)
    if gradients[LN_2_BIAS]:
        add_up(first, behind, n, room.dsecond, gradients[LN_2_BIAS], fresh)
    if gradients[LN_1_BIAS]:
        add_up(first, behind, n, room.dfirst, gradients[LN_1_BIAS], fresh)
    if gradients[LN_2]:
        add_up_norm(first, behind, width, n, middle, room.dsecond, gradients[LN_2], fresh)
    if gradients[LN_1]:
        add_up_norm(first, behind, width, n, x, room.dfirst, gradients[LN_1], fresh)


@compiled()
def embed_back(count, meeting, counters, phase, given, room):
    """Gradients of the two tables that were looked up, some columns at a time."""
    numbers, drops = given.numbers, given.drops
    dx, length, width = room.dx[len(given.weights) % 2], given.begins.shape[1], numbers[WIDTH]
    if drops.rates[0] > 0:
        n = len(given.ids)
        begin, end = part(counters, phase + 1, numbers[HIGH_ROWS], n)
        while begin < end:
            drop(begin, end, width, dx, batch_key(drops), drops.limits[0], drops.rates[0], dx)
            begin, end = part(counters, phase + 1, numbers[HIGH_ROWS], n)
        wait(count, meeting)
    first, behind = part(counters, phase, 64, width)
    while first < behind:
        if given.dends[TABLE]:
            table = matrix_at(given.dends[TABLE], numbers[TABLE_ROWS], width)
            for row in range(len(given.ids)):
                token = given.ids[row]
                for j in range(np.uint64(first), np.uint64(behind)):
                    table[token, j] += dx[row, j]
        if given.dends[POSITIONS]:
            positions = matrix_at(given.dends[POSITIONS], numbers[PLACES], width)
            if numbers[FRESH]:
                clear_part(0, numbers[PLACES], first, behind - first, positions)
            for row in range(len(given.ids)):
                place = row % length
                for j in range(np.uint64(first), np.uint64(behind)):
                    positions[place, j] += dx[row, j]
        first, behind = part(counters, phase, 64, width)
