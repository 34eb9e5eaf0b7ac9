"""Dropout as a pure function of its key."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import batch, loss_and_gradients, made
from tfgpt.model.randomness import dropout, fold, keep, key_of

SHAPE = (64, 1024)


def mask(key, rate=0.5, shape=SHAPE):
    return np.array(keep(key, shape, rate))


def independent(a, b):
    """Two halves agree half of the time, within five deviations."""
    return abs((a == b).mean() - 0.5) < 5 * 0.5 / np.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_right_overall_and_along_every_axis(key, rate):
    kept = mask(key, rate, (64, 32, 512))
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / np.sqrt(kept.size)
    for axes in ((0, 1), (0, 2), (1, 2)):
        means = kept.mean(axes)
        spread = deviation / np.sqrt(kept.size / means.size)
        assert np.abs(means - (1 - rate)).max() < 6 * spread and 0.7 < means.std() / spread < 1.4


def test_neighbours_in_a_mask_are_independent(key):
    kept = mask(key)
    for step in (1, 2, 3, 64, 512):
        assert independent(kept[:, step:], kept[:, :-step])
    assert independent(kept[1:], kept[:-1]) and independent(kept[32:], kept[:32])


def test_the_same_key_gives_the_same_mask_and_every_number_another():
    seen = [mask(fold(key_of(7), *numbers)) for numbers in [(3, 0, 0, 1, 0)] * 2]
    np.testing.assert_array_equal(*seen)
    # step, replica, micro-batch, layer, use: one of them changed, or two exchanged
    for numbers in [
        (4, 0, 0, 1, 0),
        (3, 1, 0, 1, 0),
        (3, 0, 1, 1, 0),
        (3, 0, 0, 2, 0),
        (3, 0, 0, 1, 1),
        (0, 3, 0, 1, 0),
    ]:
        assert independent(mask(fold(key_of(7), *numbers)), seen[0]), numbers
    assert independent(mask(fold(key_of(8), 3, 0, 0, 1, 0)), seen[0])


def test_all_masks_of_many_steps_differ():
    firsts = {mask(fold(key_of(1), step, replica), shape=(64,)).tobytes() for step in range(40) for replica in range(3)}
    assert len(firsts) == 120


@pytest.mark.parametrize("seed", [0, 1337, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1])
def test_any_seed_makes_a_key(seed):
    assert 0.4 < mask(key_of(seed)).mean() < 0.6


def test_what_is_kept_is_scaled_and_the_gradient_sees_the_same_mask(key):
    import tensorflow as tf

    x = tf.ones(SHAPE) * 2.0
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = dropout(x, 0.25, key)
    kept = mask(key, 0.25)
    np.testing.assert_allclose(np.array(y), np.where(kept, 2.0 / 0.75, 0.0), rtol=1e-6)
    np.testing.assert_allclose(np.array(tape.gradient(y, x)), np.where(kept, 1 / 0.75, 0.0), rtol=1e-6)
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, key) is x


RATES = {"embed_dropout": 0.2, "attn_dropout": 0.2, "res_dropout": 0.2}


@pytest.mark.parametrize("rates", [{name: 0.2} for name in RATES] + [RATES], ids=lambda rates: "+".join(rates))
def test_gradients_of_the_whole_model_are_those_of_the_loss_under_one_key(key, rates):
    """Central differences along random directions; a mask that changed between the passes would be far off."""
    gpt = made(n_ctx=300, n_layer=2, **rates)
    ids, labels = batch(gpt, rows=2)
    loss, gradients = loss_and_gradients(gpt, ids, labels, key=key)
    assert loss == loss_and_gradients(gpt, ids, labels, key=key)[0]
    assert loss != loss_and_gradients(gpt, ids, labels, key=fold(key, 1))[0]
    rng = np.random.default_rng(0)
    direction = {name: rng.normal(size=g.shape).astype("float32") for name, g in gradients.items()}
    values = gpt.values()
    losses = [
        float(gpt.parts().loss({n: w + sign * 2e-4 * direction[n] for n, w in values.items()}, ids, labels, key=key))
        for sign in (1, -1)
    ]
    slope = sum(np.sum(gradients[name].astype("float64") * direction[name]) for name in gradients)
    scale = np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in gradients.values()))
    assert abs((losses[0] - losses[1]) / 4e-4 - slope) < 0.01 * scale


def test_dropout_happens_only_where_its_rate_says(key):
    """Without a key nothing is dropped, and dropping embeddings leaves the table whole where it makes the logits."""
    gpt = made(**RATES)
    ids, labels = batch(gpt)
    plain = made()
    assert loss_and_gradients(gpt, ids, labels)[0] == loss_and_gradients(plain, ids, labels)[0]
    # All of the input is dropped but a millionth: only ln_f's bias is left to make logits, the same at every position.
    gpt = made(embed_dropout=0.999999, n_layer=1)
    for name, variable in gpt.table.items():
        if name.startswith("h."):
            variable.assign(np.zeros(variable.shape, "float32"))
    found = loss_and_gradients(gpt, ids, labels, key=key)[0]
    table, bias = np.array(gpt.table["wte.weight"])[: gpt.form.n_vocab], np.array(gpt.table["ln_f.bias"])
    logits = table.astype("float64") @ bias
    assert found == pytest.approx(-np.sum(logits[labels] - np.log(np.exp(logits).sum())), rel=1e-5)
