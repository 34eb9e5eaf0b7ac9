"""The products of packed weights, above all that of integers, against NumPy."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest


def data_of(outputs, inputs, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (outputs, inputs)).astype("float32")


def test_the_product_of_integers_is_exact_or_rounded_once():
    import tensorflow as tf

    from tfgpt.generation.products import has_whole_product, whole_product

    if not has_whole_product():
        pytest.skip("this TensorFlow has no oneDNN product of integers")
    rng = np.random.default_rng(0)
    a = rng.integers(0, 128, (4, 3072)).astype(np.uint8)
    b = rng.integers(-127, 128, (3072, 50)).astype(np.int8)
    a[1], b[:, 7] = 127, 127  # sums as large as there can be
    found = tf.function(whole_product)(tf.constant(a), tf.constant(b)).numpy()
    expected = a.astype(np.int64) @ b.astype(np.int64)
    assert np.abs(expected).max() > 2**24
    np.testing.assert_array_equal(found, expected.astype(np.float32).astype(np.int64))


@pytest.mark.parametrize("rows", [1, 5])
def test_activations_of_14_bits_lose_no_more_than_their_rounding(rows):
    import tensorflow as tf

    from tfgpt.generation.packing import quantised
    from tfgpt.generation.products import Integers, has_whole_product

    if not has_whole_product():
        pytest.skip("this TensorFlow has no oneDNN product of integers")
    product, x = Integers("int8"), data_of(rows, 96, seed=1)
    x[0, 3] = 400.0  # GPT-2 has such
    whole, scale = quantised(data_of(40, 96))
    matrix = product.laid_out(whole)
    vectors = {"scale": tf.constant(scale), "sums": tf.constant(whole.sum(1, dtype=np.int32))}

    @tf.function(autograph=False)
    def run(x):
        entered = product.enter(x, product.levels)
        return product.leave(product.multiply(entered, matrix), entered, vectors)

    expected = x.astype(np.float64) @ (whole * scale[:, None].astype(np.float64)).T
    bound = 0.51 * np.abs(x).max(1, keepdims=True) / product.levels * (np.abs(whole) * scale[:, None]).sum(1)
    assert (np.abs(run(tf.constant(x)).numpy() - expected) <= bound + 1e-5).all()


def test_no_sum_can_leave_int32():
    """Rows of the largest weights there are, as many as GPT-2 XL has: the limit of activations gives way."""
    from tfgpt.generation.packing import pack
    from tfgpt.generation.products import Integers
    from tfgpt.model.shape import Shape

    form = Shape(n_vocab=8, n_ctx=4, n_embd=1600, n_layer=1, n_head=1, attention=("global",))
    weights = {name: np.ones(shape, "float32") for name, shape in form.weights.items()}
    limit = pack(weights, form, Integers("int8")).limit
    assert 4 * 1600 * 127 * limit < 2**31 <= 4 * 1600 * 127 * (limit + 1)


def test_a_wide_matrix_is_kept_in_pieces():
    import tensorflow as tf

    from tfgpt.generation.products import PIECE, Rows

    data, x = data_of(6, 2 * PIECE + 3), data_of(1, 2 * PIECE + 3, seed=1)
    product = Rows("bfloat16")
    matrix = product.laid_out(data)
    assert len(matrix) == 3 and max(piece.shape[1] for piece in matrix) <= PIECE
    found = tf.function(lambda x: product.multiply([x], matrix), jit_compile=True, autograph=False)(x)
    rounded = tf.cast(tf.cast(data, tf.bfloat16), tf.float64).numpy()
    np.testing.assert_allclose(found, x.astype(np.float64) @ rounded.T, atol=1e-3)
    np.testing.assert_allclose(product.many(tf.constant(x), matrix), found, atol=1e-3)
    np.testing.assert_array_equal(product.look_up(matrix, tf.constant([4])), rounded[4:5].astype("float32"))
