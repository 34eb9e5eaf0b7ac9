"""The step of our own code beside TensorFlow's: the same updates by every optimizer, and variables that stay each its own."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.training import small
from tfgpt.errors import Failure
from tfgpt.native import vectors
from tfgpt.training import distribution, own_step, snapshot
from tfgpt.training.own_step import OwnStep


def here(**keys):
    return small.place(tf.distribute.get_strategy(), **keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"opt_name": "adam", "decay": "all"},
        {"opt_name": "adafactor"},
        {"opt_name": "sgd"},
        {"opt_name": "muon"},
        {"beta1": 0.0},
        {"accumulate": 4, "recompute": "block", **small.DROPOUT},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_every_optimizer_makes_the_updates_of_tensorflows_step(keys):
    config = small.config(n_layer=2, **keys)
    small.same(small.updates(config, here()), small.updates(config, here(own=True)))


def test_documents_and_clip_off():
    config = small.config(document_mask=True, clip=0.0)
    ids, labels = small.batches(2)
    segments = np.cumsum(ids % 5 == 0, axis=-1).astype(np.int32)
    found = []
    for own in (False, True):
        step = small.step_of(config, here(own=own))
        found.append((step.train(ids, labels, segments, first=0), snapshot.weights_of(step)))
    (a, left), (b, right) = found
    np.testing.assert_allclose(b.losses, a.losses, rtol=1e-6)
    np.testing.assert_allclose(b.norms, a.norms, rtol=1e-5)
    assert max(np.abs(left[name] - right[name]).max() for name in left) < 2e-4


def test_a_gradient_that_is_no_number_changes_nothing():
    step = small.step_of(small.config(), here(own=True))
    ids, labels = small.batches(3)
    table = step.gpt.table["wte.weight"]
    spoilt = np.array(table)
    spoilt[ids[1, 0, 0]] = np.nan
    ids[[0, 2]] = 255 if ids[1, 0, 0] != 255 else 254
    table.assign(spoilt)
    before, state = snapshot.weights_of(step), snapshot.optimizer_of(step)
    outcome = step.train(ids[1:2], labels[1:2], None, first=0)
    assert outcome.applied.tolist() == [False] and not np.isfinite(outcome.losses[0])
    for old, new in ((before, snapshot.weights_of(step)), (state, snapshot.optimizer_of(step))):
        assert all(old[name].tobytes() == new[name].tobytes() for name in old)


def test_what_was_read_or_put_back_is_not_changed_by_training():
    """Updates are made where a variable's value lies: no array of anybody else may be there."""
    step = small.step_of(small.config(), here(own=True))
    batch = *small.batches(2), None
    weights, slots = snapshot.weights_of(step), snapshot.optimizer_of(step)
    first = step.train(*batch, first=0).losses
    kept = {name: value.copy() for name, value in weights.items()}
    snapshot.restore(step, weights, slots)
    assert step.train(*batch, first=0).losses.tolist() == first.tolist()
    snapshot.restore(step, weights, slots)
    assert step.train(*batch, first=0).losses.tolist() == first.tolist(), "what is put back twice is the same twice"
    assert all(np.array_equal(kept[name], weights[name]) for name in kept)
    assert all(not value.any() for value in slots.values())


def test_generation_and_evaluation_see_the_weights_as_they_are_now():
    step = small.step_of(small.config(), here(own=True))
    ids, labels = small.batches(2)
    before = step.gpt(ids[0]).numpy()
    step.train(ids, labels, None, first=0)
    after = step.gpt(ids[0]).numpy()
    assert np.abs(after - before).max() > 1e-3
    fresh = small.step_of(small.config(), here())
    snapshot.restore(fresh, snapshot.weights_of(step), None)
    np.testing.assert_array_equal(fresh.gpt(ids[0]).numpy(), after)


def test_two_variables_in_one_place_are_noticed():
    step = small.step_of(small.config(), here(own=True))
    shared = tf.zeros([32])
    for name in ("h.0.ln_1.bias", "h.0.ln_2.bias"):
        step.gpt.table[name]._value.assign(shared)
    with pytest.raises(AssertionError, match="in one place"):
        step.train(*small.batches(1), None, first=0)


@pytest.mark.parametrize(
    ("keys", "replicas", "kind", "own", "word"),
    [
        ({}, 1, "CPU", True, "this processor"),
        ({}, 2, "CPU", False, "one replica"),
        ({}, 1, "GPU", False, "XLA on"),
        ({"res_dropout": 0.1}, 1, "CPU", True, "this processor"),
        ({"xla": "on"}, 1, "CPU", False, "as the configuration says"),
        ({"precision": "bfloat16"}, 1, "CPU", False, "float32 is faster here"),
        ({"precision": "float16"}, 1, "CPU", False, "it has no float16"),
    ],
)
def test_who_computes_is_said(keys, replicas, kind, own, word, monkeypatch):
    monkeypatch.setattr(vectors, "pairs_at_once", lambda: False)
    monkeypatch.setattr(vectors, "tiles_of_pairs", lambda: False)
    config = small.config(**{"xla": "auto", **keys})
    precision = config.precision
    _, chosen, why = distribution.choose_compiler(config, kind, precision, replicas=replicas)
    assert chosen is own and word in why


@pytest.mark.parametrize(("tiles", "own"), [(False, True), (True, False)])
def test_bfloat16_is_ours_where_the_processor_multiplies_it_in_pairs(monkeypatch, tiles, own):
    monkeypatch.setattr(vectors, "pairs_at_once", lambda: True)
    monkeypatch.setattr(vectors, "tiles_of_pairs", lambda: tiles)
    config = small.config(xla="auto", precision="bfloat16")
    assert distribution.choose_compiler(config, "CPU", "bfloat16", replicas=1)[1] is own


def test_a_step_in_bfloat16_learns_as_one_in_float32():
    config = small.config(n_layer=2)
    exact, near = (small.updates(config, here(own=True, precision=precision)) for precision in ("float32", "bfloat16"))
    np.testing.assert_allclose(near["losses"], exact["losses"], rtol=2e-3)
    np.testing.assert_allclose(near["norms"], exact["norms"], rtol=2e-2)
    assert (near["losses"] != exact["losses"]).any()


def test_wrong_products_of_bfloat16_are_refused(monkeypatch):
    monkeypatch.setattr(own_step, "pairs_are_right", lambda: False)
    small.step_of(small.config(), here(own=True))
    with pytest.raises(Failure, match="what it computes is wrong"):
        small.step_of(small.config(), here(own=True, precision="bfloat16"))


def test_a_place_on_one_cpu_has_our_own_step(monkeypatch):
    config = small.config(xla="auto")
    step = small.step_of(config, distribution.place(config))
    assert isinstance(step, OwnStep)
    monkeypatch.setattr(distribution.importlib.util, "find_spec", lambda name: None)
    assert not distribution.place(config).own, "without numba TensorFlow does it"
