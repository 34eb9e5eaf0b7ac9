"""Loss and gradients of the compiled step against the network in Keras, in every form that a configuration can give it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.test_engine import reference_of
from tests.model.reference import log_softmax
from tfgpt.config import Config
from tfgpt.model import randomness
from tfgpt.native.gradients import Gradients, Places, even_parts
from tfgpt.native.products import HIGH

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 24, "n_ctx": 20, "train_batch_size": 3}
OFF = {"embed_dropout": 0.0, "attn_dropout": 0.0, "res_dropout": 0.0, "data_path": "x", "tokenizer": "char"}
DROPOUT = {"embed_dropout": 0.1, "attn_dropout": 0.3, "res_dropout": 0.2}
MIXED = {"attention_types": [[["local", "sliding", "global"], 1]], "n_layer": 3}
CASES = {
    "plain": {},
    "exact GELU, heads of five, one token too many for a unit": {"n_embd": 15, "n_head": 3, "activation": "gelu"},
    "all kinds of attention": {
        **MIXED,
        "n_ctx": 150,
        "fixed_attn_block_size": 30,
        "layer_offset": 7,
        "attention_window": 40,
    },
    "documents": {**MIXED, "n_ctx": 90, "fixed_attn_block_size": 30, "attention_window": 40, "document_mask": True},
    "one token": {"n_ctx": 1, "n_embd": 6, "n_head": 3},
    "more rows than a unit": {"n_ctx": 100, "train_batch_size": 5, "n_layer": 1},
    "recomputed": {"recompute": "block"},
    "dropout": {**DROPOUT, "n_ctx": 300, "n_layer": 1},
    "dropout in all kinds of attention": {
        **DROPOUT,
        **MIXED,
        "n_ctx": 600,
        "fixed_attn_block_size": 300,
        "attention_window": 290,
    },
    "dropout in many spans": {**DROPOUT, "local": True, "n_ctx": 90, "fixed_attn_block_size": 6, "layer_offset": 4},
}


def config_of(keys) -> Config:
    return Config(**{**OFF, **SIZES, **keys})


def made(keys, n_vocab=70, seed=0):
    """A model of random weights, biases and LayerNorms too, and a batch of which some labels do not count."""
    from tfgpt.model import GPT

    config, draw = config_of(keys), np.random.default_rng(seed)
    gpt = GPT(config, n_vocab=n_vocab)
    weights = {}
    for name, variable in gpt.table.items():
        weights[name] = draw.normal("ln_" in name and "weight" in name, 0.2, variable.shape).astype(np.float32)
        variable.assign(weights[name])
    ids, labels = draw.integers(0, n_vocab, (2, config.train_batch_size, config.n_ctx), np.int32)
    labels[draw.random(labels.shape) < 0.2] = -1
    segments = np.cumsum(draw.random(ids.shape) < 0.1, axis=1).astype(np.int32) if config.document_mask else None
    return config, gpt, weights, (ids, labels, segments)


def compare(found, expected, atol=2e-6):
    for name, value in expected.items():
        value = np.array(value)
        scale = np.abs(value).max() + 1e-3
        np.testing.assert_allclose(found[name] / scale, value / scale, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_loss_and_gradients_are_those_of_the_network_in_keras(keys):
    config, gpt, weights, (ids, labels, segments) = made(keys)
    key = (12345, 678) if config.attn_dropout else None
    keras_key = key and randomness.fold(tuple(tf.constant(part, tf.uint32) for part in key), 70_007, 0, 0)
    loss, expected = gpt.parts().gradients(
        gpt.values(), ids, labels, names=list(weights), segments=segments, scale=0.5, key=keras_key
    )
    places = Places.of(weights, gpt.form)
    learn = Gradients(config, gpt.form, threads=2)
    total, found = learn(places, ids, labels, segments, scale=0.5, key=key, step=70_007)
    assert total == pytest.approx(float(loss), rel=2e-6)
    compare(found, expected)
    # Nothing of a batch stays behind, and one of fewer rows finds its way in the room of the larger one.
    first = {name: value.copy() for name, value in found.items()}
    assert (learn.loss(places, ids, labels, segments) == pytest.approx(2 * total, rel=1e-7)) == (key is None)
    some = slice(0, 1)
    less = learn(places, ids[some], labels[some], None if segments is None else segments[some], scale=0.5)[0]
    assert less < total
    again, found = learn(places, ids, labels, segments, scale=0.5, key=key, step=70_007)
    assert again == total and all(np.array_equal(found[name], first[name]) for name in first)


@pytest.mark.parametrize(
    "keys", [CASES["all kinds of attention"], CASES["more rows than a unit"]], ids=["mixed", "rows"]
)
def test_products_of_bfloat16_are_near(keys):
    """As near as rounding of what is multiplied lets them be, and no nearer."""
    config, gpt, weights, batch = made({**keys, "n_embd": 48})
    places = Places.of(weights, gpt.form)
    exact, expected = Gradients(config, gpt.form, threads=2)(places, *batch)
    total, found = Gradients(config, gpt.form, threads=2, of_pairs=True)(places, *batch)
    assert total == pytest.approx(exact, rel=2e-3) and total != exact
    matrices = [name for name in found if found[name].ndim > 1]
    away = {name: np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in matrices}
    assert max(away.values()) < 0.02 and min(away.values()) > 1e-4, away


@pytest.mark.parametrize(
    "keys", [CASES["all kinds of attention"], CASES["more rows than a unit"]], ids=["mixed", "rows"]
)
def test_the_same_bits_on_any_number_of_threads(keys):
    config, gpt, weights, batch = made(keys)
    places = Places.of(weights, gpt.form)
    total, found = Gradients(config, gpt.form, threads=1)(places, *batch)
    for threads in (2, 3, 7, 7):
        other, more = Gradients(config, gpt.form, threads=threads)(places, *batch)
        assert other == total and all(np.array_equal(found[name], more[name]) for name in found)


def test_the_gradient_is_the_slope_of_the_loss():
    """Against NumPy in float64, along random directions: no code of ours on the other side but the reference network."""
    config, gpt, weights, (ids, labels, _) = made({"activation": "gelu"})
    learn = Gradients(config, gpt.form, threads=2)
    _, found = learn(Places.of(weights, gpt.form), ids, labels, None)

    def loss(weights):
        total = 0.0
        for row, wanted in zip(ids, labels, strict=True):
            scores = log_softmax(reference_of(weights, gpt.form).logits(row[None])[0])
            total -= sum(scores[i, label] for i, label in enumerate(wanted) if label >= 0)
        return total

    draw = np.random.default_rng(5)
    wide = {name: value.astype(np.float64) for name, value in weights.items()}
    for name in weights:
        way = draw.normal(size=weights[name].shape)
        up, down = ({**wide, name: wide[name] + sign * 1e-5 * way} for sign in (1, -1))
        slope = (loss(up) - loss(down)) / 2e-5
        assert (found[name].astype(np.float64) * way).sum() == pytest.approx(slope, rel=1e-4, abs=1e-3), name


def test_parts_of_a_batch_add_up():
    config, gpt, weights, (ids, labels, _) = made({"train_batch_size": 6})
    places = Places.of(weights, gpt.form)
    whole, found = Gradients(config, gpt.form, threads=2)(places, ids, labels, None)
    parts = config.model_copy(update={"accumulate": 3})
    total, sums = Gradients(parts, gpt.form, threads=2)(places, ids, labels, None)
    assert total == pytest.approx(whole, rel=1e-6)
    compare(sums, found)


@pytest.mark.parametrize(
    "names", [["h.1.mlp.c_fc.weight"], ["wpe.weight"], ["ln_f.bias"], ["h.0.ln_1.bias", "wte.weight"]]
)
def test_only_what_is_asked_for(names):
    config, gpt, weights, batch = made({})
    places = Places.of(weights, gpt.form)
    _, expected = Gradients(config, gpt.form, threads=2)(places, *batch)
    _, found = Gradients(config, gpt.form, names=names, threads=2)(places, *batch)
    assert list(found) == names
    compare(found, {name: expected[name] for name in names}, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["wte.weight", "h.0.attn.c_attn.weight", "h.1.ln_2.bias", "h.1.mlp.c_fc.bias", "ln_f.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_seen_in_a_gradient(name, value):
    """Or the guard that holds back such updates would let it through."""
    config, gpt, weights, batch = made({})
    weights[name].reshape(-1)[5] = value
    batch[0][:, 0] = 0  # a token whose row of the table is the spoilt one
    _, found = Gradients(config, gpt.form, threads=2)(Places.of(weights, gpt.form), *batch)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(sum(np.square(value.astype(np.float64)).sum() for value in found.values()))


@pytest.mark.parametrize("n", [1, 5, 100, 768, 1024, 4096, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_units_are_of_one_size_and_as_many_for_each_thread(n, count):
    high = even_parts(n, count, HIGH)
    assert 1 <= high <= n
    units = -(-n // high)
    assert high <= HIGH and (units % count == 0 or units * HIGH < n + count * HIGH)
