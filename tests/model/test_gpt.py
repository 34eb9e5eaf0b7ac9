"""Logits, loss and every gradient of the model against GPT-2 in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import batch, close, documents, loss_and_gradients, made, weights_of
from tests.model.reference import Reference, spans

SHAPES = {
    "plain": ({}, {}),
    "padded vocabulary, short text": ({"n_vocab": 65}, {"length": 17, "rows": 3}),
    "vocabulary that needs no padding": ({"n_vocab": 64, "n_head": 1, "n_layer": 1}, {"rows": 1}),
    "one token": ({"n_layer": 1}, {"length": 1, "rows": 1}),
    "ignored labels": ({}, {"ignored": 0.5}),
    "nothing to learn": ({}, {"ignored": 2.0}),
    "queries in blocks": ({"n_ctx": 600, "n_embd": 16, "n_layer": 1}, {"rows": 2, "length": 530}),
    "large vocabulary": ({"n_vocab": 1100, "n_head": 2}, {"ignored": 0.1}),
    "exact GELU": ({"activation": "gelu"}, {}),
    "one wide head": ({"n_embd": 24, "n_head": 1, "n_layer": 3}, {}),
}


def reference_of(gpt, **how):
    return Reference(weights_of(gpt), heads=gpt.form.n_head, n_vocab=gpt.form.n_vocab, **how)


def compare(gpt, ids, labels, segments=None, mask=None):
    reference = reference_of(gpt, mask=mask, activation=gpt.form.activation)
    logits = np.array(gpt(ids, segments))
    expected = reference.logits(ids, segments)
    assert logits.shape == expected.shape and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=1e-4)
    loss, gradients = loss_and_gradients(gpt, ids, labels, segments)
    np.testing.assert_allclose(loss, reference.loss(ids, labels, segments), rtol=1e-5)
    close(gradients, reference.gradients(ids, labels, segments), 1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_loss_and_gradients_are_those_of_gpt_2(name):
    keys, how = SHAPES[name]
    gpt = made(**keys)
    compare(gpt, *batch(gpt, **how))


@pytest.mark.parametrize("n_ctx", [24, 300])
def test_segments_keep_attention_inside_documents(n_ctx):
    gpt = made(n_ctx=n_ctx)
    ids, labels = batch(gpt)
    compare(gpt, ids, labels, documents(ids.shape))


@pytest.mark.parametrize("keys", [{"local": True}, {"attention_types": [[["global", "local"], 1], [["local"], 1]]}])
@pytest.mark.parametrize("offset", [0, 3, 7])
def test_local_blocks_see_their_span_of_a_grid_that_each_block_shifts(keys, offset):
    gpt = made(n_layer=3, fixed_attn_block_size=8, layer_offset=offset, **keys)
    ids, labels = batch(gpt, length=21)
    kinds = ["local"] * 3 if "local" in keys else ["global", "local", "local"]
    assert list(gpt.form.attention) == kinds

    def mask(layer, length):
        return spans(length, 8, layer * offset % 8) if kinds[layer] == "local" else np.tri(length, dtype=bool)

    compare(gpt, ids, labels, documents(ids.shape), mask=mask)
    compare(gpt, ids, labels, mask=mask)


@pytest.mark.parametrize(("n_ctx", "length", "window"), [(24, 21, 5), (24, 24, 1), (24, 24, 40), (900, 700, 300)])
def test_sliding_blocks_see_as_many_tokens_as_their_window_holds(n_ctx, length, window):
    gpt = made(n_layer=2, n_ctx=n_ctx, attention_types=[[["sliding", "global"], 1]], attention_window=window)
    ids, labels = batch(gpt, length=length)

    def mask(layer, length):
        distance = np.arange(length)[:, None] - np.arange(length)[None]
        return (distance >= 0) & ((distance < window) | (layer == 1))

    compare(gpt, ids, labels, documents(ids.shape), mask=mask)
    compare(gpt, ids, labels, mask=mask)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu"])
def test_the_reference_differentiates_its_own_loss(activation):
    """Central differences in float64, so that the truth above is one."""
    gpt = made(n_layer=2, activation=activation)
    ids, labels = batch(gpt, ignored=0.2)
    segments, reference, rng = documents(ids.shape), reference_of(gpt, activation=activation), np.random.default_rng(3)
    gradients = reference.gradients(ids, labels, segments)
    for name, weight in reference.w.items():
        direction, original = rng.normal(size=weight.shape), weight.copy()
        losses = []
        for sign in (1, -1):
            reference.w[name] = original + sign * 1e-6 * direction
            losses.append(reference.loss(ids, labels, segments))
        reference.w[name] = original
        slope = (losses[0] - losses[1]) / 2e-6
        np.testing.assert_allclose(np.sum(gradients[name] * direction), slope, rtol=1e-5, atol=1e-6, err_msg=name)


def test_padding_of_the_vocabulary_is_neither_seen_nor_moved():
    gpt = made(n_vocab=65)
    ids, labels = batch(gpt)
    before, logits = loss_and_gradients(gpt, ids, labels), np.array(gpt(ids))
    assert not np.any(before[1]["wte.weight"][65:])
    table = np.array(gpt.table["wte.weight"])
    table[65:] = 1e3
    gpt.table["wte.weight"].assign(table)
    assert loss_and_gradients(gpt, ids, labels)[0] == before[0]
    np.testing.assert_array_equal(np.array(gpt(ids)), logits)


def test_no_position_sees_a_later_one():
    gpt = made(n_ctx=300)
    ids, _ = batch(gpt)
    other = ids.copy()
    other[:, 270:] = (other[:, 270:] + 1) % gpt.form.n_vocab
    found, changed = np.array(gpt(ids)), np.array(gpt(other))
    np.testing.assert_allclose(found[:, :270], changed[:, :270], atol=1e-5)
    assert np.abs(found[:, 270:] - changed[:, 270:]).max() > 0.1


@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_step_gives_what_the_eager_one_gives(jit):
    gpt = made(n_vocab=65)
    ids, labels = batch(gpt, ignored=0.1)
    loss, gradients = loss_and_gradients(gpt, ids, labels)
    compiled, found = loss_and_gradients(gpt, ids, labels, jit=jit)
    assert compiled == pytest.approx(loss, rel=1e-6)
    close(found, gradients, 1e-5)
