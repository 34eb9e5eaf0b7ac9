"""Random bits as a pure function of a key and a place, in plain integer arithmetic.

Keras's own dropout draws from a state, which makes the backward pass of a recomputed block see another mask, and gives every
replica the same one. Here a mask can be made again at any time from its key, and no mask needs to be stored: XLA computes
it inside whatever uses it.
"""

from __future__ import annotations

import math

from keras import ops


def fold(key, *numbers):
    """A new key from `key` (two uint32) and whole numbers: which step, micro-batch, replica, layer, use."""
    a, b = key
    for number in numbers:
        number = ops.cast(number, "uint32")
        a, b = _mix(ops.bitwise_xor(_mix(ops.bitwise_xor(a, number)), b)), _mix(ops.add(b, a))
    return a, b


def key_of(seed: int):
    """The key of a run."""
    return ops.cast(seed & 0xFFFFFFFF, "uint32"), ops.cast((seed >> 32) ^ 0x5EED, "uint32")


def keep(key, shape: tuple[int, ...], rate: float):
    """A mask of `shape` that is True with probability 1 - rate."""
    count = math.prod(shape)
    # Counted in int32 first: TensorFlow's graphs have no unsigned range.
    place = ops.reshape(ops.cast(ops.arange(count, dtype="int32"), "uint32"), shape)
    bits = _mix(ops.bitwise_xor(_mix(ops.bitwise_xor(place, key[0])), key[1]))
    return ops.greater_equal(bits, ops.cast(min(round(rate * 2**32), 2**32 - 1), "uint32"))


def dropout(x, rate: float, key):
    """`x` with a share of `rate` set to zero, the rest scaled so that its mean stays (inverted dropout)."""
    if not rate or key is None:
        return x
    kept = keep(key, tuple(x.shape), rate)
    return ops.where(kept, x * ops.cast(1 / (1 - rate), x.dtype), ops.zeros_like(x))


def _mix(x):
    # Ellis's two-round multiply-xorshift ("lowbias32"), whose avalanche bias is close to that of a random function.
    x = ops.bitwise_xor(x, ops.right_shift(x, ops.cast(16, "uint32")))
    x = ops.multiply(x, ops.cast(0x7FEB352D, "uint32"))
    x = ops.bitwise_xor(x, ops.right_shift(x, ops.cast(15, "uint32")))
    x = ops.multiply(x, ops.cast(0x846CA68B, "uint32"))
    return ops.bitwise_xor(x, ops.right_shift(x, ops.cast(16, "uint32")))
