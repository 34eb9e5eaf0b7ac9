"""Products of activations with packed weights: which type, layout and kernel, for one token at a time and for several.

With one token at a time the whole model is one compiled program, and a product is a row of weights times the activations,
cast inside: XLA on a CPU then reads int8 weights at the speed of memory. With several tokens XLA has no such product, and
oneDNN's kernels are called between small compiled programs.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# XLA on a CPU casts weights inside the product only where the activations have less than 16 KiB.
PIECE = 4095


class Product:
    """How products of one type are made. `matrix` is what `laid_out` gave: a list of tensors."""

    dtype = "float32"
    compiled = True  # the product itself may stand inside a compiled program
    # Where activations are rounded to integers, to so many levels: a token's numbers then do not depend on how many others
    # are multiplied beside it.
    levels = 0

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def laid_out(self, data: np.ndarray) -> list[tf.Tensor]:
        """Tensors of a matrix [out, in], float32 or already int8."""
        raise NotImplementedError

    def look_up(self, matrix: list[tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        """Rows of the matrix [out, in] by number, float32, not yet scaled: [n, in]."""
        raise NotImplementedError

    def enter(self, x: tf.Tensor, limit: int) -> list[tf.Tensor]:
        """What `multiply` wants of activations [n, in]."""
        return [x]

    def multiply(self, entered: list[tf.Tensor], matrix: list[tf.Tensor]) -> tf.Tensor:
        """[n, out], to be understood by `leave`."""
        raise NotImplementedError

    def leave(self, raw: tf.Tensor, entered: list[tf.Tensor], vectors: dict[str, tf.Tensor]) -> tf.Tensor:
        """The product as float32 [n, out], scaled, with its bias if it has one."""
        found = tf.cast(raw, tf.float32)
        if "scale" in vectors:
            found = found * vectors["scale"]
        return found + vectors["bias"] if "bias" in vectors else found

    def many(self, x: tf.Tensor, matrix: list[tf.Tensor], rows: slice = slice(None)) -> tf.Tensor:
        """The product with many activations [n, in], float32 [n, out]; of `rows` of the matrix only."""
        raise NotImplementedError

    def prompt(self, x: tf.Tensor, matrix: list[tf.Tensor], vectors: dict[str, tf.Tensor], limit: int) -> tf.Tensor:
        """The product with the activations of whole prompts [n, in] as `leave` gives it, outside of compiled programs."""
        return self.leave(self.many(x, matrix), [], vectors)


class Rows(Product):
    """Weights [out, in], for one token at a time, inside a compiled program."""

    def laid_out(self, data: np.ndarray) -> list[tf.Tensor]:
        if self.dtype == "float32":
            return [tf.constant(data, tf.float32)]
        kind = tf.int8 if self.dtype == "int8" else tf.bfloat16
        pieces = np.array_split(data, -(-data.shape[1] // PIECE), axis=1)
        return [tf.cast(tf.constant(piece), kind) for piece in pieces]

    def look_up(self, matrix: list[tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.cast(tf.gather(piece, ids), tf.float32) for piece in matrix], 1)

    def multiply(self, entered: list[tf.Tensor], matrix: list[tf.Tensor]) -> tf.Tensor:
        parts = tf.split(entered[0], [piece.shape[1] for piece in matrix], 1)
        return sum(
            tf.matmul(part, tf.cast(piece, tf.float32), transpose_b=True)
            for part, piece in zip(parts, matrix, strict=True)
        )

    def many(self, x: tf.Tensor, matrix: list[tf.Tensor], rows: slice = slice(None)) -> tf.Tensor:
        parts = tf.split(x, [piece.shape[1] for piece in matrix], 1)
        # Weights first: with them second and on their side, oneDNN takes half as long again.
        found = tf.add_n(
            [
                tf.matmul(tf.cast(piece[rows], tf.float32), part, transpose_b=True)
                for part, piece in zip(parts, matrix, strict=True)
            ]
        )
        return tf.transpose(found)


class Columns(Product):
    """Weights [in, out], for several tokens at a time, by TensorFlow's own products; int8 weights are cast at every one."""

    compiled = False

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.computed = tf.float32 if dtype == "int8" else tf.as_dtype(dtype)

    def laid_out(self, data: np.ndarray) -> list[tf.Tensor]:
        return [tf.cast(tf.constant(np.ascontiguousarray(data.T)), self.dtype)]

    def look_up(self, matrix: list[tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.transpose(tf.gather(matrix[0], ids, axis=1)), tf.float32)

    def enter(self, x: tf.Tensor, limit: int) -> list[tf.Tensor]:
        return [tf.cast(x, self.computed)]

    def multiply(self, entered: list[tf.Tensor], matrix: list[tf.Tensor]) -> tf.Tensor:
        return tf.matmul(entered[0], tf.cast(matrix[0], self.computed))

    def many(self, x: tf.Tensor, matrix: list[tf.Tensor], rows: slice = slice(None)) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.cast(x, self.computed), tf.cast(matrix[0][:, rows], self.computed)), tf.float32)


class Integers(Product):
    """int8 weights [in, out] for several tokens at a time; activations as 14-bit integers in two halves of 7 bits.

    Products of such integers are summed in int32 without any rounding (oneDNN then rounds the sum once, to float32), so a
    token's numbers do not depend on how many others are computed beside it. 7 bits a half, as processors without VNNI add two products of 8 bits in 16.
    """

    compiled = False
    levels = 2**13 - 1

    def laid_out(self, data: np.ndarray) -> list[tf.Tensor]:
        return [tf.constant(np.ascontiguousarray(data.T))]

    def look_up(self, matrix: list[tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.transpose(tf.gather(matrix[0], ids, axis=1)), tf.float32)

    def enter(self, x: tf.Tensor, limit: int) -> list[tf.Tensor]:
        most = tf.reduce_max(tf.abs(x), -1, keepdims=True)
        step = tf.maximum(most, 1e-30) / limit  # [n, 1]
        whole = tf.cast(tf.round(x / step), tf.int32) + 2**13  # 1 ... 2**14 - 1
        halves = tf.concat([tf.bitwise.right_shift(whole, 7), tf.bitwise.bitwise_and(whole, 127)], 0)
        return [tf.cast(halves, tf.uint8), step]  # [2 n, in]

    def multiply(self, entered: list[tf.Tensor], matrix: list[tf.Tensor]) -> tf.Tensor:
        return whole_product(entered[0], matrix[0])

    def leave(self, raw: tf.Tensor, entered: list[tf.Tensor], vectors: dict[str, tf.Tensor]) -> tf.Tensor:
        high, low = tf.split(raw, 2)
        # Sums may pass beyond int32 here and come back: what counts is right modulo 2**32, and it fits.
        exact = high * 128 + low - vectors["sums"] * 2**13
        return super().leave(tf.cast(exact, tf.float32) * entered[1], entered, vectors)

    def prompt(self, x: tf.Tensor, matrix: list[tf.Tensor], vectors: dict[str, tf.Tensor], limit: int) -> tf.Tensor:
        entered = self.enter(x, limit)
        return self.leave(self.multiply(entered, matrix), entered, vectors)

    def many(self, x: tf.Tensor, matrix: list[tf.Tensor], rows: slice = slice(None)) -> tf.Tensor:
        return tf.matmul(x, tf.cast(matrix[0][:, rows], tf.float32))


def whole_product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """uint8 [n, in] times int8 [in, out] as int32, by oneDNN, which keeps a copy of `b` in its own layout.

    TensorFlow's public op finds out that weights are constant only if they stand in the graph as text, in which they take
    seventeen times their size; the op that it is rewritten to can be told.
    """
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    kinds = {"T1": tf.quint8, "T2": tf.qint8, "Tbias": tf.qint32, "Toutput": tf.qint32}
    attributes = {name: AttrValue(type=kind.as_datatype_enum) for name, kind in kinds.items()}
    attributes |= {"transpose_a": AttrValue(b=False), "transpose_b": AttrValue(b=False)}
    attributes |= {"is_weight_const": AttrValue(b=True), "input_quant_mode": AttrValue(s=b"SCALED")}
    attributes["_kernel"] = AttrValue(s=b"QuantizedMklOp")
    bias = tf.bitcast(tf.zeros(b.shape[1], tf.int32), tf.qint32)
    ranges = [tf.constant(x) for x in (0.0, 255.0, -127.0, 127.0)]
    operation = tf.compat.v1.get_default_graph().create_op(
        "_MklQuantizedMatMulWithBias",
        [tf.bitcast(a, tf.quint8), tf.bitcast(b, tf.qint8), bias, *ranges],
        [tf.qint32, tf.float32, tf.float32],
        name="whole_product",
        attrs=attributes,
    )
    found = tf.bitcast(operation.outputs[0], tf.int32)
    found.set_shape((a.shape[0], b.shape[1]))
    return found


def has_whole_product() -> bool:
    """Whether this TensorFlow has oneDNN's product of integers, and it is right (it was not always: tensorflow #61510)."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 128, (6, 200)).astype(np.uint8)
    b = rng.integers(-127, 128, (200, 96)).astype(np.int8)
    a[0], b[:, 0] = 127, -127  # the largest sums there are
    try:
        found = tf.function(whole_product, autograph=False)(tf.constant(a), tf.constant(b))
    except (tf.errors.OpError, ValueError, TypeError):
        return False
    return bool((found.numpy() == a.astype(np.int32) @ b.astype(np.int32)).all())
