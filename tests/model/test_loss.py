"""The loss over the vocabulary: in parts as in one piece, and what counts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.reference import log_softmax, pick
from tfgpt.model import loss as module


def run(tokens, rows, n_vocab, labels, width=8, dtype="float32", size=1.0):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    hidden = tf.cast(rng.normal(0, size, (tokens, width)), dtype)
    table = tf.cast(rng.normal(0, size, (rows, width)), dtype)
    # The scale is not one: what it makes of the loss must arrive below.
    total, *both = module.gradients(hidden, table, tf.constant(labels), n_vocab=n_vocab, scale=3.0)
    found = [np.array(tf.cast(x, "float32")) for x in (total / 3.0, *both)]
    plain = module.cross_entropy(hidden, table, tf.constant(labels), n_vocab=n_vocab)
    np.testing.assert_allclose(plain, found[0], rtol=1e-6, atol=1e-6)
    how = {"n_vocab": n_vocab, "scale": 3.0, "in_place": True}
    for one, other in zip(both, module.gradients(hidden, table, tf.constant(labels), **how)[1:], strict=True):
        np.testing.assert_allclose(
            np.array(tf.cast(one, "float32")), np.array(tf.cast(other, "float32")), rtol=1e-6, atol=1e-6 * size
        )
    return found, [np.array(tf.cast(x, "float64")) for x in (hidden, table)]


@pytest.mark.parametrize("rows", [128, 39])
def test_a_table_changed_in_place_by_the_compiler_is_the_same(monkeypatch, rows):
    import tensorflow as tf

    monkeypatch.setattr(module, "CHUNK_BYTES", 4096)
    rng = np.random.default_rng(0)
    hidden, table = (rng.normal(size=(count, 8)).astype("float32") for count in (48, rows))
    labels = rng.integers(-1, rows, 48).astype("int32")

    def compiled(in_place):
        how = {"n_vocab": rows, "scale": 3.0, "in_place": in_place}
        run = tf.function(lambda *given: module.gradients(*given, **how), jit_compile=True, autograph=False)
        return run(hidden, table, labels)

    for found in (compiled(False), compiled(True)):
        for got, want in zip(found, expected(hidden, table, rows, labels), strict=True):
            np.testing.assert_allclose(got, want * 3.0 if np.ndim(want) == 0 else want, atol=2e-5, rtol=2e-5)


def expected(hidden, table, n_vocab, labels):
    logits = hidden @ table[:n_vocab].T
    counts = (labels >= 0).astype(float)
    right = np.maximum(labels, 0)
    d = (np.exp(log_softmax(logits)) - np.eye(n_vocab)[right]) * counts[:, None] * 3.0
    dtable = np.zeros_like(table)
    dtable[:n_vocab] = d.T @ hidden
    return -np.sum(counts * pick(log_softmax(logits), right)), d @ table[:n_vocab], dtable


@pytest.mark.parametrize("chunk_bytes", [1 << 26, 4096, 1])
@pytest.mark.parametrize(
    ("tokens", "rows", "n_vocab"), [(48, 128, 128), (48, 128, 70), (37, 64, 64), (37, 39, 39), (1, 64, 50)]
)
def test_loss_and_gradients_in_however_many_parts(monkeypatch, chunk_bytes, tokens, rows, n_vocab):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    labels = np.random.default_rng(1).integers(-1, n_vocab, tokens).astype("int32")
    found, inputs = run(tokens, rows, n_vocab, labels)
    for got, want in zip(found, expected(*inputs, n_vocab, labels), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)


def test_logits_of_hundreds_do_not_overflow():
    labels = np.arange(16, dtype="int32")
    found, inputs = run(16, 64, 60, labels, size=15.0)
    assert np.abs(inputs[0] @ inputs[1].T).max() > 500
    for got, want in zip(found, expected(*inputs, 60, labels), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tokens", [1, 37, 1024, 12 * 1024, 32 * 1024, 1021])
@pytest.mark.parametrize("rows", [65, 50304, 262144])
def test_parts_are_small_and_not_too_many(tokens, rows):
    size = module.chunk_size(tokens, rows)
    count = -(-tokens // size)
    assert 1 <= size <= tokens and count <= module.MOST_CHUNKS
    assert size * rows * 4 <= module.CHUNK_BYTES + rows * 4 or -(-tokens // (size - 1)) > module.MOST_CHUNKS
