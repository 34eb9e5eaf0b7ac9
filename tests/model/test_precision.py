"""Products in bfloat16 and float16; weights, statistics and the loss in float32."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import batch, loss_and_gradients, made, weights_of
from tests.model.reference import Reference
from tests.model.test_shape_of_graph import gradient_of

# A number is rounded to 8 bits in bfloat16, to 11 in float16: relative errors of 2^-9 and 2^-12 each time.
ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12}


@pytest.mark.parametrize("precision", ROUNDING)
def test_loss_and_gradients_are_as_near_as_the_type_allows(precision):
    gpt = made(precision=precision, n_ctx=40, n_vocab=65)
    ids, labels = batch(gpt, ignored=0.1)
    reference = Reference(weights_of(gpt), heads=4, n_vocab=65)
    loss, gradients = loss_and_gradients(gpt, ids, labels)
    # Errors of the tokens are independent: their sum is much nearer than each.
    assert loss == pytest.approx(reference.loss(ids, labels), rel=2 * ROUNDING[precision])
    for name, want in reference.gradients(ids, labels).items():
        assert gradients[name].dtype == np.float32
        error = np.linalg.norm(gradients[name] - want) / np.linalg.norm(want)
        assert error < 20 * ROUNDING[precision], f"{name}: {error:.1e}"  # some twenty roundings, one after the other
    assert np.array(gpt(ids)).dtype == np.float32


@pytest.mark.parametrize("precision", ROUNDING)
def test_weights_stay_float32_and_the_type_is_really_used(precision):
    import tensorflow as tf

    gpt = made(precision=precision, n_layer=1, n_vocab=2000)
    assert {str(v.dtype) for v in gpt.weights} == {"float32"} and gpt.compute_dtype == precision
    spec = tf.TensorSpec((2, 24), tf.int32)
    operations = tf.function(gradient_of(gpt)).get_concrete_function(spec, spec).graph.get_operations()

    def types(*kinds):
        return {o.inputs[0].dtype.name for o in operations if o.type in kinds}

    assert types("MatMul", "BatchMatMulV2") == {precision}
    assert types("Exp", "Log", "Rsqrt", "Tanh") == {"float32"}
    means = [o for o in operations if o.type == "Mean"]
    assert means and all(o.inputs[0].dtype == tf.float32 for o in means)


def test_float16_keeps_small_gradients_under_a_scale():
    """What is multiplied by the scale comes home divided by it, as near as without."""
    gpt = made(precision="float16", n_vocab=4000)
    ids, labels = batch(gpt)
    want = Reference(weights_of(gpt), heads=4, n_vocab=4000).gradients(ids, labels)
    scale = 2.0**10
    for name, gradient in loss_and_gradients(gpt, ids, labels, scale=scale)[1].items():
        found = np.array(gradient) / scale
        assert np.linalg.norm(found - want[name]) < 20 * ROUNDING["float16"] * np.linalg.norm(want[name]), name


def test_norms_take_their_statistics_in_float32():
    """Numbers around 1000 with a spread of 8: float16 squares would overflow, bfloat16 could not tell them apart."""
    import tensorflow as tf

    from tfgpt.model.layers import norm

    x = tf.cast(1000 + 8 * np.random.default_rng(0).normal(size=(4, 512)), "float16")
    exact = np.array(x).astype("float64")
    want = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    one, none = tf.ones(512, "float16"), tf.zeros(512, "float16")
    np.testing.assert_allclose(np.array(norm(x, one, none)), want, atol=3e-3)
