"""The small functions that a block is made of, each with its gradient; statistics are in float32 whatever products are in.

Gradients are written out, so that what is kept for the backward pass is chosen, not found: a LayerNorm and a GELU are
cheaper to compute again than to remember.
"""

from __future__ import annotations

import math

from keras import ops

EPSILON = 1e-5  # GPT-2's
SMALL_VOCABULARY = 1024  # up to here the gradient of a lookup is faster as a product with one-hot rows
_A, _B = math.sqrt(2 / math.pi), 0.044715
_C, _D = math.sqrt(0.5), math.sqrt(0.5 / math.pi)


def dense(x, weight, bias):
    """x [..., in] times weight [in, out] plus bias, as one flat product, which is what every library is fastest at."""
    return ops.reshape(ops.matmul(_flat(x), weight) + bias, (-1, *x.shape[1:-1], weight.shape[1]))


def dense_gradient(x, weight, dy):
    """Gradients of x, weight and bias."""
    flat = _flat(dy)
    dx = ops.reshape(ops.matmul(flat, ops.transpose(weight)), (-1, *x.shape[1:]))
    return dx, ops.matmul(ops.transpose(_flat(x)), flat), ops.sum(ops.cast(flat, "float32"), axis=0)


def norm(x, weight, bias):
    """LayerNorm over the last axis."""
    y, _ = _normal(x)
    return ops.cast(y * ops.cast(weight, "float32") + ops.cast(bias, "float32"), x.dtype)


def norm_gradient(x, weight, dy):
    """Gradients of x, weight and bias."""
    y, rate = _normal(x)
    dy = ops.cast(dy, "float32")
    d = dy * ops.cast(weight, "float32")
    d = d - ops.mean(d, axis=-1, keepdims=True) - y * ops.mean(d * y, axis=-1, keepdims=True)
    before = tuple(range(len(x.shape) - 1))
    return ops.cast(d * rate, x.dtype), ops.sum(dy * y, axis=before), ops.sum(dy, axis=before)


def gelu(x, kind: str = "gelu_tanh"):
    """GPT-2's GELU (tanh form), or the exact one."""
    wide = ops.cast(x, "float32")
    return ops.cast(0.5 * wide * (1.0 + (_tanh(wide) if kind == "gelu_tanh" else ops.erf(wide * _C))), x.dtype)


def gelu_gradient(x, dy, kind: str = "gelu_tanh"):
    """Gradient of x."""
    wide = ops.cast(x, "float32")
    if kind == "gelu":
        slope = 0.5 * (1.0 + ops.erf(wide * _C)) + wide * ops.exp(-0.5 * wide * wide) * _D
        return ops.cast(ops.cast(dy, "float32") * slope, x.dtype)
    t = _tanh(wide)
    slope = 0.5 * (1.0 + t) + 0.5 * wide * (1.0 - t * t) * _A * (1.0 + 3.0 * _B * wide * wide)
    return ops.cast(ops.cast(dy, "float32") * slope, x.dtype)


def embed(table, ids):
    """Rows of `table` [V, E] at `ids` [B, T]."""
    return ops.take(table, ids, axis=0)


def embed_gradient(dtable, ids, dy, add_rows):
    """The gradient of a table, `dtable` [V, E], and what these lookups of it add; dense, as the tied output makes it."""
    flat, flat_ids = _flat(dy), ops.reshape(ids, (-1,))
    if dtable.shape[0] > SMALL_VOCABULARY:
        return add_rows(dtable, flat_ids, flat)
    return dtable + ops.matmul(ops.transpose(ops.one_hot(flat_ids, dtable.shape[0], dtype=flat.dtype)), flat)


def add_rows(table, ids, rows):
    """`table` with `rows` added at `ids`, once for each time that an id is there."""
    return ops.scatter_update(table, ids[:, None], rows, reduction="add")


def after(x, done):
    """`x`, once all of `done` are known (times zero): or a parallel executor would work on, and hold, all blocks at once."""
    for other in done:
        x = x + ops.cast(ops.reshape(other, (-1,))[0] * ops.cast(0.0, other.dtype), x.dtype)
    return x


def _flat(x):
    return ops.reshape(x, (-1, x.shape[-1]))


def _normal(x):
    """x with mean 0 and variance 1, and what it was multiplied by; float32."""
    wide = ops.cast(x, "float32")
    centred = wide - ops.mean(wide, axis=-1, keepdims=True)
    rate = ops.rsqrt(ops.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return centred * rate, rate


def _tanh(wide):
    return ops.tanh(_A * (wide + _B * wide * wide * wide))
