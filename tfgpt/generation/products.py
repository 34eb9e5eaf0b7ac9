"""Products of activations with packed weights, for accelerators: each type is kept as it is, and cast inside of the product."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class Product:
    """How products of one type are made; matrices are [in, out]."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.computed = tf.float32 if dtype == "int8" else tf.as_dtype(dtype)

    def laid_out(self, data: np.ndarray) -> tf.Tensor:
        """A matrix [out, in], float32 or already int8."""
        return tf.cast(tf.constant(np.ascontiguousarray(data.T)), self.dtype)

    def look_up(self, matrix: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Columns by number, float32, not yet scaled: [n, in]."""
        return tf.cast(tf.transpose(tf.gather(matrix, ids, axis=1)), tf.float32)

    def multiply(self, x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
        """x [n, in], float32, times the matrix as float32 [n, out]."""
        return tf.cast(tf.matmul(tf.cast(x, self.computed), tf.cast(matrix, self.computed)), tf.float32)

    def dense(self, x: tf.Tensor, matrix: tf.Tensor, vectors: dict[str, tf.Tensor]) -> tf.Tensor:
        """The product, scaled, with its bias if it has one."""
        found = self.multiply(x, matrix)
        if "scale" in vectors:
            found = found * vectors["scale"]
        return found + vectors["bias"] if "bias" in vectors else found
