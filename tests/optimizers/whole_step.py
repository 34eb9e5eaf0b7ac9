"""One whole update of a small set of weights, as a training step has it; run here and under another Keras backend."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfgpt import optimizers

SHAPES = {
    "wte.weight": (20, 8),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.mlp.c_proj.weight": (32, 8),
    "h.0.mlp.c_proj.bias": (8,),
}
KEYS = [
    {"opt_name": "adam"},
    {"opt_name": "adafactor"},
    {"opt_name": "adafactor", "beta1": 0.9, "decay_type": "adam"},
    {"opt_name": "sgd", "beta1": 0.0},
    {"opt_name": "sgd", "beta1": 0.9},
    {"opt_name": "muon"},
]
SHARED = {"weight_decay": 0.1, "max_steps": 10, "warmup_steps": 2, "lr": 0.1, "clip": 1.0, "data_path": "x"}


def gradients(step):
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}


def beginning(config):
    """Weights and empty slots before the first update."""
    optimizer, rng = optimizers.build(config), np.random.default_rng(99)
    weights = {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}
    slots = {
        name: {slot: np.zeros(s, "float32") for slot, s in optimizer.slots(name, shape).items()}
        for name, shape in SHAPES.items()
    }
    return weights, slots


def one_step(config, weights, slots, step, grads):
    """New weights, new slots, and the norm of the gradients."""
    optimizer, lr = optimizers.build(config), optimizers.learning_rate(config, step)
    norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in grads.values()))
    factor = optimizers.clip_factor(norm, config.clip)
    grads = {name: ops.cast(gradient, "float32") * factor for name, gradient in grads.items()}
    new = {name: optimizer.update(name, weights[name], grads[name], slots[name], lr=lr, step=step) for name in weights}
    return {name: weight for name, (weight, _) in new.items()}, {name: slot for name, (_, slot) in new.items()}, norm
