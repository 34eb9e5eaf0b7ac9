"""Updates by compiled code beside the optimizers' own mathematics, weight by weight, and to the bit on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training import small
from tfgpt import optimizers
from tfgpt.native.products import ready
from tfgpt.native.team import Team
from tfgpt.native.updating import PIECE
from tfgpt.training.own_updates import OwnUpdates

# Matrices of every form that Muon tells apart: square, wide and tall; of sides that fill no vector and that fill many.
SHAPES = {
    "wte.weight": (3 * PIECE // 24 + 5, 24),
    "wpe.weight": (7, 24),
    "h.0.ln_1.weight": (24,),
    "h.0.attn.c_attn.weight": (37, 3 * 37),
    "h.0.attn.c_attn.bias": (111,),
    "h.0.attn.c_proj.weight": (1, 1),
    "h.0.mlp.c_fc.weight": (50, 201),
    "h.0.mlp.c_fc.bias": (201,),
    "h.0.mlp.c_proj.weight": (233, 64),
    "h.1.mlp.c_fc.weight": (70, 5),
    "h.1.mlp.c_proj.weight": (400, 210),
}
RULES = {
    "adam": {"opt_name": "adam"},
    "adam without m": {"opt_name": "adam", "beta1": 0.0, "decay": "all"},
    "sgd": {"opt_name": "sgd"},
    "sgd with momentum": {"opt_name": "sgd", "beta1": 0.9, "weight_decay": 0.0},
    "adafactor": {"opt_name": "adafactor", "beta1": 0.0, "decay": "all"},
    "adafactor with momentum": {"opt_name": "adafactor", "beta1": 0.9, "decay_type": "adam"},
    "muon": {"opt_name": "muon"},
}
STEPS = np.array([0, 1, 5000], np.int32)
RATES = np.array([0.03, 0.02, 0.01], np.float32)
FACTOR = np.float32(0.25)


def drawn(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: (scale * draw.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def made(config, gradients, threads: int = 2) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Weights, and by slot what is remembered of them, after an update by each of the gradients."""
    ready()
    optimizer, weights, gradient = optimizers.build(config), drawn(0), drawn(0)
    slots: dict[str, dict[str, np.ndarray]] = {}
    for name, shape in SHAPES.items():
        for slot, own in optimizer.slots(name, shape).items():
            slots.setdefault(slot, {})[name] = np.zeros(own, np.float32)
    update = OwnUpdates(config, Team(threads), SHAPES, gradient)
    update.locate(weights, slots)
    told = update.told(STEPS, RATES)
    for step, found in enumerate(gradients):
        for name in SHAPES:
            gradient[name][...] = found[name]
        update(FACTOR, [constants[step] for constants in told])
    return weights, slots


@pytest.mark.parametrize("keys", RULES.values(), ids=RULES)
def test_a_rule_is_that_of_its_optimizer(keys):
    config = small.config(**keys)
    # The third gradient is zero in some matrices, and tiny or huge in others.
    gradients = [drawn(1), drawn(2, scale=1e-3), drawn(3)]
    for name, scale in (("h.0.mlp.c_proj.weight", 0.0), ("h.0.mlp.c_fc.weight", 1e-25), ("h.1.mlp.c_fc.weight", 1e13)):
        gradients[2][name] *= np.float32(scale)
    weights, slots = made(config, gradients)
    optimizer, start = optimizers.build(config), drawn(0)
    for name, shape in SHAPES.items():
        weight = start[name]
        remembered = {slot: np.zeros(own, np.float32) for slot, own in optimizer.slots(name, shape).items()}
        for step, rate, found in zip(STEPS, RATES, gradients, strict=True):
            weight, remembered = optimizer.update(name, weight, found[name] * FACTOR, remembered, lr=rate, step=step)
        moved = np.abs(np.asarray(weight) - start[name]).max()
        np.testing.assert_allclose(weights[name], weight, rtol=0, atol=2e-5 * max(moved, 1e-2), err_msg=name)
        for slot, value in remembered.items():
            np.testing.assert_allclose(slots[slot][name], value, rtol=2e-5, atol=1e-7, err_msg=f"{name}/{slot}")


@pytest.mark.parametrize(
    "keys", [RULES["adam"], RULES["adafactor with momentum"], RULES["muon"]], ids=lambda keys: keys["opt_name"]
)
def test_any_number_of_threads_makes_the_same_bits(keys):
    config, gradients = small.config(**keys), [drawn(1), drawn(2)]
    (one, left), (three, right) = made(config, gradients, 1), made(config, gradients, 3)
    assert all(one[name].tobytes() == three[name].tobytes() for name in SHAPES)
    assert all(left[slot][name].tobytes() == right[slot][name].tobytes() for slot in left for name in left[slot])


def test_muon_moves_all_directions_of_a_matrix_alike():
    weights, _ = made(small.config(opt_name="muon", weight_decay=0.0), [drawn(1)])
    start = drawn(0)
    for name in ("h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "h.1.mlp.c_proj.weight"):
        change = (start[name].astype(np.float64) - weights[name]) / (RATES[0] * 0.2 * max(SHAPES[name]) ** 0.5)
        values = np.linalg.svd(change, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.25, name


def test_the_norm_is_that_of_all_gradients():
    gradient = drawn(4)
    update = OwnUpdates(small.config(), Team(2), SHAPES, gradient)
    expected = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in gradient.values()))
    assert abs(update.norm() / expected - 1) < 1e-6


def test_a_rule_without_weights_is_none():
    """Who trains hidden matrices only has nothing for AdamW, and the other way round."""
    for some in (["h.0.mlp.c_fc.weight"], ["wte.weight"]):
        gradient = {name: drawn(1)[name] for name in some}
        update = OwnUpdates(small.config(opt_name="muon"), Team(2), {name: SHAPES[name] for name in some}, gradient)
        assert len(update.told(STEPS, RATES)) == 1
