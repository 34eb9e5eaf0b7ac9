"""What holds for every optimizer: compiled as eager, float32, no variables, zero gradients, another Keras backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.optimizers.whole_step import KEYS, SHAPES, SHARED, beginning, gradients, one_step
from tfgpt import optimizers
from tfgpt.config import Config


@pytest.fixture(params=KEYS, ids=lambda keys: "-".join(map(str, keys.values())))
def config(request):
    return Config(**SHARED, **request.param)


def test_compiled_equals_eager_and_makes_no_variables(config):
    """Five updates; the compiled one gets its step as a tensor and is traced once."""

    def forbidden(next_creator, **kwargs):
        raise AssertionError("an optimizer made a variable")

    traces = []

    def step_of(weights, slots, step, grads):
        traces.append(step)
        return one_step(config, weights, slots, step, grads)

    compiled = tf.function(step_of, jit_compile=True)
    eager = fast = beginning(config)
    with tf.variable_creator_scope(forbidden):
        for step in range(5):
            eager = one_step(config, *eager[:2], step, gradients(step))
            fast = compiled(*tf.nest.map_structure(tf.constant, fast[:2]), tf.constant(step), gradients(step))
            for one, other in zip(tf.nest.flatten(eager), tf.nest.flatten(fast), strict=True):
                assert one.dtype == other.dtype == tf.float32
                np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert len(traces) == 1


def test_slots_keep_their_shapes(config):
    weights, slots = beginning(config)
    new_weights, new_slots, _ = one_step(config, weights, slots, 0, gradients(0))
    shapes = lambda tree: tf.nest.map_structure(lambda x: tuple(x.shape), tree)  # noqa: E731
    assert shapes(new_slots) == shapes(slots) and shapes(new_weights) == shapes(weights)


def test_what_goes_in_stays_as_it_was(config):
    weights, slots = beginning(config)
    before = json.dumps(tf.nest.map_structure(np.ndarray.tolist, [weights, slots]))
    one_step(config, weights, slots, 0, gradients(0))
    assert json.dumps(tf.nest.map_structure(np.ndarray.tolist, [weights, slots])) == before


def test_zero_gradients_decay_moments_and_weights_only(config):
    weights, slots = beginning(config)
    nothing = {name: np.zeros(shape, "float32") for name, shape in SHAPES.items()}
    for step in range(3):
        rate = float(optimizers.learning_rate(config, step))
        new, slots, norm = one_step(config, weights, slots, step, nothing)
        assert norm == 0
        for name, shape in SHAPES.items():
            decay = rate * 0.1 if len(shape) >= 2 else 0.0
            np.testing.assert_allclose(new[name], np.array(weights[name]) * (1 - decay), rtol=2e-7)
        weights = new
    weights, slots = beginning(config)
    weights, slots, _ = one_step(config, weights, slots, 0, gradients(0))
    _, later, _ = one_step(config, weights, slots, 1, nothing)
    for one, other in zip(tf.nest.flatten(slots), tf.nest.flatten(later), strict=True):
        assert 0 < np.linalg.norm(other) < np.linalg.norm(one)


def test_lower_precision_gradients_meet_float32_state(config):
    weights, slots = beginning(config)
    half = {name: tf.cast(value, tf.bfloat16) for name, value in gradients(0).items()}
    exact = {name: np.array(tf.cast(value, tf.float32)) for name, value in half.items()}
    one, other = (tf.nest.flatten(one_step(config, weights, slots, 0, g)) for g in (half, exact))
    for a, b in zip(one, other, strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_array_equal(a, b)


SCRIPT = """
import json
import keras, numpy as np
from tests.optimizers.whole_step import KEYS, SHARED, beginning, gradients, one_step
from tfgpt.config import Config
results = []
for keys in KEYS:
    config = Config(**SHARED, **keys)
    state = beginning(config)
    for step in range(3):
        state = one_step(config, *state[:2], step, gradients(step))
    results.append({name: np.array(weight).tolist() for name, weight in state[0].items()})
print(json.dumps([keras.backend.backend(), results]))
"""


def test_keras_on_torch_gives_the_same():
    """Nothing is TensorFlow's own: with Keras on another backend the same code gives the same weights."""
    pytest.importorskip("torch")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    backend, results = json.loads(done.stdout)
    assert backend == "torch"
    for keys, other in zip(KEYS, results, strict=True):
        config = Config(**SHARED, **keys)
        state = beginning(config)
        for step in range(3):
            state = one_step(config, *state[:2], step, gradients(step))
        for name in SHAPES:
            np.testing.assert_allclose(state[0][name], other[name], rtol=0, atol=2e-6)
