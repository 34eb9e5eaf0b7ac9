"""The loss scale of float16: large enough that small gradients do not vanish, halved whenever one overflows anywhere.

Keras's own looks at the first replica alone, so an overflow on another one is applied. Here the test comes after
the sum over all replicas and micro-batches, where an overflow anywhere shows everywhere.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from tfgpt.model.variables import own_copies

START, LEAST, MOST = 2.0**15, 2.0**-24, 2.0**24
WINDOW = 1000  # updates without an overflow after which the scale is doubled


class LossScale:
    """Two variables: the scale, and for how many updates it has held.

    `tokens` is how many are summed in one backward pass. The usual first scale is meant for a mean over them; gradients
    of their sum are so many times larger, and would overflow in the first dozen updates.
    """

    def __init__(self, tokens: int = 1) -> None:
        self.start = START / 2.0 ** math.floor(math.log2(tokens))
        self.scale = own_copies("loss_scale", (), lambda: np.float32(self.start))
        self.held = own_copies("loss_scale_held", (), lambda: np.float32(0.0))

    def value(self):
        """The present scale, a float32 scalar."""
        return tf.identity(self.scale.value)

    def update(self, finite) -> None:
        """Learn from one update whether its gradient was finite."""
        scale, held = tf.identity(self.scale.value), tf.identity(self.held.value) + 1.0
        grown = tf.where(held >= WINDOW, tf.minimum(scale * 2.0, MOST), scale)
        self.scale.value.assign(tf.where(finite, grown, tf.maximum(scale / 2.0, LEAST)))
        self.held.value.assign(tf.where(finite & (held < WINDOW), held, 0.0))

    def first(self) -> dict[str, np.ndarray]:
        """Values at the start of a run."""
        return {"loss_scale": np.array(self.start, np.float32), "loss_scale_held": np.array(0.0, np.float32)}

    def variables(self) -> dict[str, keras.Variable]:
        """By name, for checkpoints."""
        return {"loss_scale": self.scale, "loss_scale_held": self.held}
