"""Attention of one head of a text in training, forward and back, some queries at a time."""

from __future__ import annotations

import numpy as np

from tfgpt.native.arithmetic import NOUGHT, ONE, exponential, largest_of, product_of, total_of
from tfgpt.native.compiling import compiled
from tfgpt.native.dropout import ATTENTION, key_of, mask_of, stays
from tfgpt.native.products import ADD, PUT, multiply, multiply_by_turned, multiply_turned
from tfgpt.native.rows import at, clear_part

LOOK = 64  # queries whose scores exist at one time


@compiled()
def lowest(place, first, reach):
    """The first key that the query at `place` sees, where its document begins at `first`; reach: span, shift, window."""
    span, shift, window = reach
    return max(max(first, place - window + 1), (place + shift) // span * span - shift)


@compiled()
def look(text, head, length, depth, heads, qkv, begins, reach, merged, divisor, scores, room, drops, i):
    """Attention of one head of a text."""
    dropped, limit, own_key = drops.rates[1], drops.limits[1], key_of(drops, i, ATTENTION)
    width, top_row, step = heads * depth, text * length, qkv.shape[1]
    factor = ONE / np.sqrt(np.float32(depth))
    for start in range(0, length, LOOK):
        stop = min(start + LOOK, length)
        first = lowest(start, begins[text, start], reach)
        multiply_by_turned(
            stop - start, depth, stop - first, at(qkv, top_row + start, head * depth), step,
            at(qkv, top_row + first, width + head * depth), step, at(scores, 0, 0), scores.shape[1], room, PUT,
        )  # fmt: skip
        for row in range(stop - start):
            seen, behind = lowest(start + row, begins[text, start + row], reach) - first, start + row + 1 - first
            top = largest_of(scores, row, seen, behind) * factor
            for j in range(np.uint64(seen)):
                scores[row, j] = 0
            for j in range(np.uint64(seen), np.uint64(behind)):
                scores[row, j] = exponential(scores[row, j] * factor - top)
            total = total_of(scores, row, seen, behind)
            rate = ONE / total
            for j in range(np.uint64(seen), np.uint64(behind)):
                scores[row, j] *= rate
            for j in range(np.uint64(behind), np.uint64(stop - first)):
                scores[row, j] = 0
            divisor[top_row + start + row, head] = top + np.log(total)
            if dropped > 0:
                (a, b), index = mask_of(text, head, heads, start + row, length, reach, own_key)
                share, index = ONE / (ONE - dropped), np.uint32(index + first)
                for j in range(np.uint64(seen), np.uint64(behind)):
                    scores[row, j] *= share if stays(index + np.uint32(j), a, b, limit) else NOUGHT
        multiply(
            stop - start, stop - first, depth, at(scores, 0, 0), scores.shape[1],
            at(qkv, top_row + first, 2 * width + head * depth), step,
            at(merged, top_row + start, head * depth), merged.shape[1], room, PUT,
        )  # fmt: skip


@compiled()
def look_back(
    text, head, length, depth, heads, qkv, begins, reach, merged, dmerged, divisor, dqkv, scores, dscores, room, drops, layer
):  # fmt: skip
    """Gradients of one head's queries, keys and values."""
    dropped, limit, own_key = drops.rates[1], drops.limits[1], key_of(drops, layer, ATTENTION)
    width, top_row, step, dstep = heads * depth, text * length, qkv.shape[1], dqkv.shape[1]
    factor = ONE / np.sqrt(np.float32(depth))
    for part in range(1, 3):
        clear_part(top_row, top_row + length, part * width + head * depth, depth, dqkv)
    for start in range(0, length, LOOK):
        stop = min(start + LOOK, length)
        first = lowest(start, begins[text, start], reach)
        rows, count, row = stop - start, stop - first, top_row + start
        keys = at(qkv, top_row + first, width + head * depth)
        values = at(qkv, top_row + first, 2 * width + head * depth)
        queries, dout = at(qkv, row, head * depth), at(dmerged, row, head * depth)
        multiply_by_turned(rows, depth, count, queries, step, keys, step, at(scores, 0, 0), scores.shape[1], room, PUT)
        multiply_by_turned(
            rows, depth, count, dout, dmerged.shape[1], values, step, at(dscores, 0, 0), dscores.shape[1], room, PUT
        )
        for i in range(rows):
            seen, behind = lowest(start + i, begins[text, start + i], reach) - first, start + i + 1 - first
            less, own_divisor = product_of(merged, dmerged, row + i, head * depth, depth), divisor[row + i, head]
            for j in range(np.uint64(seen)):
                scores[i, j] = 0
                dscores[i, j] = 0
            if dropped > 0:
                (a, b), index = mask_of(text, head, heads, start + i, length, reach, own_key)
                share, index = ONE / (ONE - dropped), np.uint32(index + first)
                for j in range(np.uint64(seen), np.uint64(behind)):
                    p = exponential(scores[i, j] * factor - own_divisor)
                    kept = share if stays(index + np.uint32(j), a, b, limit) else NOUGHT
                    scores[i, j] = p * kept
                    dscores[i, j] = p * (dscores[i, j] * kept - less) * factor
            else:
                for j in range(np.uint64(seen), np.uint64(behind)):
                    p = exponential(scores[i, j] * factor - own_divisor)
                    scores[i, j] = p
                    dscores[i, j] = p * (dscores[i, j] - less) * factor
            for j in range(np.uint64(behind), np.uint64(count)):
                scores[i, j] = 0
                dscores[i, j] = 0
        multiply(
            rows, count, depth, at(dscores, 0, 0), dscores.shape[1], keys, step, at(dqkv, row, head * depth), dstep, room,
            PUT,
        )  # fmt: skip
        multiply_turned(
            count, rows, depth, at(dscores, 0, 0), dscores.shape[1], queries, step,
            at(dqkv, top_row + first, width + head * depth), dstep, room, ADD,
        )  # fmt: skip
        multiply_turned(
            count, rows, depth, at(scores, 0, 0), scores.shape[1], dout, dmerged.shape[1],
            at(dqkv, top_row + first, 2 * width + head * depth), dstep, room, ADD,
        )  # fmt: skip
