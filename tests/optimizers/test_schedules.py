"""The learning rate at every kind of step, and clipping, against plain float64 formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfgpt import optimizers

SCHEDULES = ["cosine", "linear", "constant", "wsd"]
INTEGER_TYPES = [int, np.int32, np.int64, tf.constant]


def reference(t, *, lr, min_lr, warmup, steps, schedule):
    """The definition, in float64, with the share of the way that was gone."""
    if t < warmup:
        return lr * (t + 1) / warmup
    gone = min((t - warmup) / (steps - warmup), 1.0) if steps > warmup else 1.0
    if schedule == "constant":
        return lr
    if schedule == "cosine":
        return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * gone))
    if schedule == "linear":
        return lr + (min_lr - lr) * gone
    start = max(warmup, steps - max(steps // 5, 1))
    return lr if t < start else lr + (min_lr - lr) * min((t - start) / (steps - start), 1.0)


def rates(config, steps):
    compiled = tf.function(lambda step: optimizers.learning_rate(config, step), jit_compile=True)
    both = [(float(optimizers.learning_rate(config, t)), float(compiled(tf.constant(t, tf.int32)))) for t in steps]
    np.testing.assert_allclose(*zip(*both, strict=True), rtol=1e-6, atol=1e-12)
    return [eager for eager, _ in both]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (50, 0), (50, 1), (50, 45), (50, 49), (1, 0)])
def test_every_step_equals_the_formula(configured, schedule, steps, warmup):
    config = configured(lr=3e-4, min_lr=2e-5, max_steps=steps, warmup_steps=warmup, lr_schedule=schedule)
    exact = [
        reference(t, lr=3e-4, min_lr=2e-5, warmup=warmup, steps=steps, schedule=schedule) for t in range(steps + 1)
    ]
    np.testing.assert_allclose(rates(config, range(steps + 1)), exact, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("min_lr", [0.0, 1e-5])
@pytest.mark.parametrize(
    ("steps", "warmup"), [(1000, 100), (1000, 0), (1000, 1000), (7, 7), (3, 1), (1, 1), (2**31 - 1, 9)]
)
def test_ends_are_exact(configured, schedule, min_lr, steps, warmup):
    config = configured(lr=0.00025, min_lr=min_lr, max_steps=steps, warmup_steps=warmup, lr_schedule=schedule)
    first, top, last, after = rates(config, [0, max(warmup - 1, 0), steps, max(steps, 2**31 - 1)])
    end = np.float32(0.00025 if schedule == "constant" else min_lr)
    assert 0 < first <= np.float32(0.00025) and last == after == end
    if warmup:
        assert top == np.float32(0.00025)
        assert first == pytest.approx(0.00025 / warmup, rel=1e-6)


def test_without_warmup_the_first_rate_is_the_highest(configured):
    for schedule in SCHEDULES:
        config = configured(lr=0.00025, max_steps=1000, warmup_steps=0, lr_schedule=schedule)
        assert rates(config, [0])[0] == pytest.approx(0.00025, rel=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [600_000, 2**31 - 1])
def test_long_runs_stay_exact_to_the_last_step(configured, schedule, steps):
    config = configured(lr=1.0, max_steps=steps, warmup_steps=2000, lr_schedule=schedule)
    where = [0, 1, 1999, 2000, steps // 3, steps * 4 // 5, steps - 1000, steps - 2, steps - 1]
    exact = [reference(t, lr=1.0, min_lr=0.0, warmup=2000, steps=steps, schedule="linear") for t in where]
    if schedule == "cosine":  # In float64 the usual formula is itself too coarse at the end; this is the same function.
        exact = [
            e if t < 2000 else math.sin(math.pi / 2 * (steps - t) / (steps - 2000)) ** 2
            for t, e in zip(where, exact, strict=True)
        ]
    elif schedule != "linear":
        exact = [reference(t, lr=1.0, min_lr=0.0, warmup=2000, steps=steps, schedule=schedule) for t in where]
    np.testing.assert_allclose(rates(config, where), exact, rtol=1e-6)


@pytest.mark.parametrize("kind", INTEGER_TYPES)
def test_any_kind_of_integer_will_do(configured, kind):
    rate = optimizers.learning_rate(configured(max_steps=100, warmup_steps=10, lr=1.0), kind(55))
    assert rate.dtype == "float32" and rate.shape == () and float(rate) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.3, 1.0, 1e6])
def test_the_clip_shortens_to_the_limit_and_changes_nothing_below_it(limit):
    compiled = tf.function(lambda norm: optimizers.clip_factor(norm, limit), jit_compile=True)
    for norm in (0.0, 1e-30, 0.29, 0.3, 1.0, 1.5, 1e15, 3e38):
        for factor in (optimizers.clip_factor(norm, limit), compiled(tf.constant(norm, tf.float32))):
            if limit == 0 or norm <= limit:
                assert float(factor) == 1.0, "to the bit"
            else:
                assert float(factor) == pytest.approx(limit / norm, rel=1e-6)
