"""Weights and optimizer out of TensorFlow's variables and back, as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt.errors import Failure
from tfgpt.training.step import Step


def weights_of(step: Step) -> dict[str, np.ndarray]:
    """Copies of the weights, by GPT-2's names."""
    return {name: _read(step, variable) for name, variable in step.gpt.table.items()}


def optimizer_of(step: Step) -> dict[str, np.ndarray]:
    """Copies of the optimizer's variables."""
    return {name: _read(step, variable) for name, variable in step.variables().items()}


def restore(step: Step, weights: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray] | None) -> None:
    """Put arrays back; every name must be there and every shape must fit, or nothing is changed."""
    pairs = [(step.gpt.table, weights)]
    if optimizer is not None:
        pairs.append((step.variables(), optimizer))
    for variables, arrays in pairs:
        for name, variable in variables.items():
            if name not in arrays or tuple(arrays[name].shape) != tuple(variable.shape):
                found = f"has shape {list(arrays[name].shape)}" if name in arrays else "is missing"
                raise Failure(f"the checkpoint does not fit: {name} {found}, this run needs {list(variable.shape)}")
    for variables, arrays in pairs:
        for name, variable in variables.items():
            for local in step.place.strategy.experimental_local_results(variable._value):
                # A copy: TensorFlow may take an array as it is, and training changes variables in place.
                local.assign(np.array(arrays[name]))


def initialize(step: Step) -> None:
    """Put every variable back to its first value."""
    from tfgpt.model import initial

    weights = {name: initial.value(step.config, name, shape) for name, shape in step.gpt.form.weights.items()}
    restore(step, weights, first_optimizer(step))


def first_optimizer(step: Step) -> dict[str, np.ndarray]:
    """What the optimizer's variables begin with."""
    first = {name: np.zeros(v.shape, np.float32) for name, v in step.variables().items()}
    return first | (step.scale.first() if step.scale else {})


def _read(step: Step, variable: Any) -> np.ndarray:
    # A copy: what training does to the variable while a checkpoint is being written must not be seen there.
    return np.array(step.place.strategy.experimental_local_results(variable._value)[0].numpy())
