"""The small functions that a block is made of; statistics are in float32 whatever the products are computed in."""

from __future__ import annotations

import math

from keras import ops

EPSILON = 1e-5  # GPT-2's
SMALL_VOCABULARY = 1024  # up to here the gradient of a lookup is faster as a product with one-hot rows
_A, _B = math.sqrt(2 / math.pi), 0.044715


def dense(x, weight, bias):
    """x [..., in] times weight [in, out] plus bias, as one flat product, which is what every library is fastest at."""
    shape = (-1, *x.shape[1:-1], weight.shape[1])
    flat = ops.matmul(ops.reshape(x, (-1, weight.shape[0])), weight) + bias
    return ops.reshape(flat, shape)


def norm(x, weight, bias):
    """LayerNorm over the last axis."""
    wide = ops.cast(x, "float32")
    centred = wide - ops.mean(wide, axis=-1, keepdims=True)
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    y = centred * ops.rsqrt(variance + EPSILON)
    return ops.cast(y * ops.cast(weight, "float32") + ops.cast(bias, "float32"), x.dtype)


@ops.custom_gradient
def gelu(x):
    """GPT-2's GELU (tanh form). Only `x` is kept for the backward pass."""

    def parts(x):
        wide = ops.cast(x, "float32")
        return wide, ops.tanh(_A * (wide + _B * wide * wide * wide))

    wide, t = parts(x)

    def gradient(*upstream):
        wide, t = parts(x)
        slope = 0.5 * (1.0 + t) + 0.5 * wide * (1.0 - t * t) * _A * (1.0 + 3.0 * _B * wide * wide)
        return ops.cast(ops.cast(upstream[-1], "float32") * slope, x.dtype)

    return ops.cast(0.5 * wide * (1.0 + t), x.dtype), gradient


def embed(table, ids):
    """Rows of `table` [V, E] at `ids` [B, T]; the gradient is dense, as the tied output makes it so anyway."""
    rows = table.shape[0]

    @ops.custom_gradient
    def look_up(table):
        def gradient(*upstream):
            flat_ids = ops.reshape(ids, (-1,))
            flat = ops.reshape(upstream[-1], (-1, table.shape[1]))
            if rows <= SMALL_VOCABULARY:
                return ops.matmul(ops.transpose(ops.one_hot(flat_ids, rows, dtype=flat.dtype)), flat)
            return ops.segment_sum(flat, flat_ids, num_segments=rows)

        return ops.take(table, ids, axis=0), gradient

    return look_up(table)
