"""Shared by the optimizer tests: a configuration from a few keys, and many updates of one weight in eager mode."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt import optimizers
from tfgpt.config import Config


@pytest.fixture(scope="session")
def configured():
    """Makes a configuration from the keys that a test is about."""
    return lambda **keys: Config(data_path="x", **keys)


@pytest.fixture(scope="session")
def run():
    """Updates one weight with one gradient after the other; gives all weights on the way, and the last slots."""

    def run(config, name, weight, gradients, rates):
        optimizer = optimizers.build(config)
        slots = {slot: np.zeros(shape, "float32") for slot, shape in optimizer.slots(name, weight.shape).items()}
        path, weight = [], weight.astype("float32")
        for step, (gradient, lr) in enumerate(zip(gradients, rates, strict=True)):
            weight, slots = optimizer.update(name, weight, gradient.astype("float32"), slots, lr=lr, step=step)
            path.append(np.array(weight))
        return path, {slot: np.array(value) for slot, value in slots.items()}

    return run


@pytest.fixture
def problem():
    """A weight and gradients of changing size, from a seed and a shape."""

    def problem(shape, count, seed=0):
        rng = np.random.default_rng(seed)
        sizes = np.exp(rng.normal(-3, 2, count))
        gradients = [rng.normal(size=shape) * size for size in sizes]
        return rng.normal(0, 0.5, shape), [g.astype("float32").astype("float64") for g in gradients]

    return problem
