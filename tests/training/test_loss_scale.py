"""The loss scale of float16 by itself: halved at an overflow, doubled after a thousand quiet updates, within its limits.

Two replicas of which one overflows: test_replicas.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.training import small
from tfgpt.training import loss_scale, snapshot
from tfgpt.training.loss_scale import LEAST, MOST, START, LossScale


def reference(finite: list[bool], window: int) -> list[float]:
    """The rule in plain Python."""
    scale, held, path = START / 64, 0, []
    for good in finite:
        held += 1
        if not good:
            scale, held = max(scale / 2, LEAST), 0
        elif held >= window:
            scale, held = min(scale * 2, MOST), 0
        path.append(scale)
    return path


def test_scale_follows_the_rule(monkeypatch):
    monkeypatch.setattr(loss_scale, "WINDOW", 10)
    finite = [True] * 5 + [False] * 40 + [True] * 9 + [False] + [True] * 500
    scale = LossScale(100)
    update = tf.function(scale.update)
    found = []
    for good in finite:
        update(tf.constant(good))
        found.append(float(scale.scale.numpy()))
    wanted = reference(finite, 10)
    assert found == wanted and min(wanted) == LEAST and max(wanted) == MOST


def test_first_values_are_those_of_the_variables():
    scale = LossScale(1000)
    assert scale.start == 2.0**6
    for name, variable in scale.variables().items():
        assert scale.first()[name] == variable.numpy() and scale.first()[name].dtype == np.float32


def test_float16_learns_what_float32_learns_and_an_overflow_changes_nothing():
    """The scale cancels out of loss, norm and update; a gradient beyond 65504 is refused and halves it."""
    settings = small.config(precision="float16")
    step = small.step_of(settings, small.place(tf.distribute.get_strategy(), precision="float16"))
    exact = small.updates(small.config(), small.place(tf.distribute.get_strategy()), count=3)
    found = step.train(*small.batches(3), None, first=0)
    assert found.applied.all()
    np.testing.assert_allclose(found.losses, exact["losses"], rtol=2e-3)
    np.testing.assert_allclose(found.norms, exact["norms"], rtol=2e-2)
    before = snapshot.weights_of(step) | snapshot.optimizer_of(step)
    step.scale.scale.assign(2.0**30)
    refused = step.train(*small.batches(1), None, first=3)
    assert not refused.applied[0] and refused.losses[0] == pytest.approx(found.losses[0], rel=0.1)
    after = snapshot.weights_of(step) | snapshot.optimizer_of(step)
    assert after.pop("loss_scale") == 2.0**29 and after.pop("loss_scale_held") == 0
    assert all(after[name].tobytes() == before[name].tobytes() for name in after)
