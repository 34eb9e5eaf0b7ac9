"""First values: the paper's deviations, the seed's scales, and nothing but the seed decides them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.model.conftest import configured
from tfgpt.model import initial
from tfgpt.model.shape import Shape

SIZES = {"n_embd": 256, "n_layer": 4, "n_ctx": 512, "n_vocab": 1000}


def values(**keys):
    config = configured(**(SIZES | keys))
    return {name: initial.value(config, name, shape) for name, shape in Shape.of(config).weights.items()}


def check(found, deviation):
    """Mean zero and this deviation, within five deviations of what so many draws allow."""
    assert found.dtype == np.float32
    assert abs(found.mean()) < 5 * deviation / math.sqrt(found.size)
    assert found.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * found.size))
    tail = np.mean(np.abs(found) > 2 * deviation)  # a normal distribution has 4.55 % there; a cut one none
    assert abs(tail - 0.0455) < 5 * math.sqrt(0.0455 / found.size)


def test_the_papers_deviations():
    for name, found in values().items():
        if found.ndim == 1:
            assert np.all(found == (1.0 if name.endswith("weight") else 0.0)), name
        else:
            check(found, 0.02 / math.sqrt(8) if "c_proj" in name else 0.02)


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("inputs", [False, True])
def test_the_seeds_deviations(depth, inputs):
    """f = 1/sqrt(n_layer) on mlp.c_proj alone, times 1/sqrt(n_in) on every matrix inside blocks; wpe half of wte."""
    for name, found in values(init="seed", scale_by_depth=depth, scale_by_in=inputs).items():
        if found.ndim == 1:
            continue
        if name in ("wte.weight", "wpe.weight"):
            check(found, 0.02 if name == "wte.weight" else 0.01)
            continue
        scale = 1 / math.sqrt(4) if depth and name.endswith("mlp.c_proj.weight") else 1.0
        scale *= 1 / math.sqrt(1024 if name.endswith("mlp.c_proj.weight") else 256) if inputs else 1.0
        check(found, 0.02 * scale)


def test_seed_and_name_alone_decide():
    first, again, other = values(), values(), values(seed=1338)
    for name, found in first.items():
        np.testing.assert_array_equal(found, again[name])
        if found.ndim == 2:
            assert abs(np.corrcoef(found.ravel(), other[name].ravel())[0, 1]) < 5 / math.sqrt(found.size)
    a, b = first["h.0.attn.c_attn.weight"], first["h.1.attn.c_attn.weight"]
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size)


def test_every_replica_begins_with_the_same_values():
    """Two replicas on two logical devices, in a process of its own because devices are divided only once."""
    import subprocess
    import sys

    from tests.conftest import ROOT

    code = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.model.conftest import configured
from tfgpt.model import GPT, initial
config = configured()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    gpt = GPT(config)
for name, variable in gpt.table.items():
    copies = [x.numpy() for x in strategy.experimental_local_results(variable.value)]
    assert len(copies) == 2, len(copies)
    for copy in copies:
        np.testing.assert_array_equal(copy, initial.value(config, name, copy.shape))
print("equal")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
