"""Attention in blocks and in spans against one masked matrix in float64, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import documents
from tests.model.reference import attention, spans
from tfgpt.model import attention as module
from tfgpt.model.attention import Span


def run(span, length, segments=None, rate=0.0, key=None, seed=0, depth=6, large=1.0):
    """Output and gradients, and the float64 inputs and upstream gradient they belong to."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    q, k, v, dout = (rng.normal(0, large, (2, 3, length, depth)).astype("float32") for _ in range(4))
    how = {"span": span, "segments": None if segments is None else tf.constant(segments), "rate": rate, "key": key}
    inputs = [tf.constant(x) for x in (q, k, v)]
    out, divisor = module.forward(*inputs, **how)
    delta = tf.reduce_sum(out * dout, axis=-1, keepdims=True)
    found = [out, *module.backward(*inputs, tf.constant(dout), divisor, delta, **how)]
    return [np.array(x) for x in found], [x.astype("float64") for x in (q, k, v)], dout.astype("float64")


def compare(span, length, seen, segments=None, *, tolerance=1e-5, **how):
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
    found, inputs, dout = run(span, length, segments, **how)
    for name, got, want in zip(("out", "dq", "dk", "dv"), found, attention(*inputs, seen, dout), strict=True):
        np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, np.abs(want).max()), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 700])
def test_causal_attention_in_blocks_of_queries(length):
    compare(None, length, np.tri(length, dtype=bool))
    compare(None, length, np.tri(length, dtype=bool), documents((2, length)))


def test_scores_of_hundreds_do_not_overflow():
    # A score of 300 is known to 2e-5 in float32, and so are the probabilities made of it.
    compare(None, 300, np.tri(300, dtype=bool), large=12.0, tolerance=2e-4)


# Lengths that are whole spans, more, less, less than one; grids that are and are not shifted; a shift that ends the text.
PLACES = [(32, 8, 0), (32, 8, 3), (33, 8, 0), (31, 8, 7), (31, 8, 1), (5, 8, 0), (5, 8, 2), (5, 8, 6), (1, 4, 3)]
PLACES += [(8, 8, 0), (8, 8, 4), (7, 1, 0), (40, 16, 15), (300, 128, 16), (300, 300, 0), (300, 299, 298)]


@pytest.mark.parametrize(("length", "size", "shift"), PLACES)
def test_local_attention_is_dense_attention_under_the_mask_of_spans(length, size, shift):
    compare(Span(size, shift), length, spans(length, size, shift))
    compare(Span(size, shift), length, spans(length, size, shift), documents((2, length)))


def test_a_span_is_as_long_as_it_says():
    """The seed cut spans of the wrong axis, so that a span of 128 tokens saw nine."""
    length, size = 64, 16
    v = np.eye(length, dtype="float32")[None, None]
    q = np.zeros((1, 1, length, length), "float32")
    used = np.array(module.forward(q, q, v, span=Span(size, 4))[0])[0, 0] > 0
    counts = used.sum(1)
    assert counts.max() == size and counts.tolist() == [*range(1, 13), *list(range(1, 17)) * 3, *range(1, 5)]
    np.testing.assert_array_equal(used, spans(length, size, 4))


def kept_by(span, length, rate, key):
    """The dropout mask [B, H, T, T]: with equal scores and the unit matrix as values, the output is the used weights."""
    q = np.zeros((2, 3, length, length), "float32")
    v = np.tile(np.eye(length, dtype="float32"), (2, 3, 1, 1))
    return np.array(module.forward(q, q, v, span=span, rate=rate, key=key)[0]) > 0


@pytest.mark.parametrize(("name", "length"), [("causal", 300), ("local", 300)])
def test_attention_dropout_drops_the_same_weights_in_both_passes(key, name, length):
    """The mask is read from one call; gradients of another call with the same key must be those under that very mask."""
    span = None if name == "causal" else Span(128, 16)
    seen = np.tri(length, dtype=bool) if name == "causal" else spans(length, 128, 16)
    kept = kept_by(span, length, 0.3, key)
    share = kept[:, :, seen].mean()
    deviation = np.sqrt(0.3 * 0.7 / kept[:, :, seen].size)
    assert abs(share - 0.7) < 5 * deviation
    found, inputs, dout = run(span, length, rate=0.3, key=key)
    wanted = attention(*inputs, seen, dout, kept=kept, rate=0.3)
    for label, got, want in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5, rtol=1e-4, err_msg=label)


def test_attention_dropout_differs_between_rows_heads_blocks_and_keys(key):
    from tfgpt.model.randomness import fold

    kept = kept_by(None, 520, 0.5, key)
    seen = np.tri(256, dtype=bool)
    first, second = kept[0, 0, :256, :256], kept[0, 0, 256:512, 256:512]
    others = [kept[1, 0, :256, :256], kept[0, 1, :256, :256], second]
    others.append(kept_by(None, 256, 0.5, fold(key, 1))[0, 0])
    for other in others:  # independent halves agree half of the time
        assert abs((first == other)[seen].mean() - 0.5) < 5 * 0.5 / np.sqrt(seen.sum())
