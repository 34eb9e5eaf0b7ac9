"""What every optimizer has in common: the state it keeps for a weight, one update of that weight, and weight decay."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfgpt.config import Config

# Whatever keras.ops takes and gives: a tensor of the backend, a traced one, or a NumPy array on the way in.
Tensor = Any
Slots = dict[str, Tensor]
Shape = tuple[int, ...]


def decays(config: Config, name: str, shape: Shape) -> bool:
    """Whether `weight_decay` touches the weight `name`.

    With `decay: matrices` these are all weights of rank two and more, the two embeddings among them, as in nanoGPT;
    with `decay: all` biases and LayerNorm too.
    """
    return config.decay == "all" or len(shape) >= 2


class Optimizer:
    """The rule of one update. It holds no state: whoever trains keeps the slots, which all begin as zeros.

    >>> import numpy as np
    >>> from tfgpt.config import Config
    >>> from tfgpt.optimizers import build
    >>> optimizer = build(Config(opt_name="adam", data_path="x"))
    >>> weight, gradient = np.ones(3, "float32"), np.full(3, 0.5, "float32")
    >>> slots = {slot: np.zeros(shape, "float32") for slot, shape in optimizer.slots("ln_f.bias", (3,)).items()}
    >>> weight, slots = optimizer.update("ln_f.bias", weight, gradient, slots, lr=0.1, step=0)
    >>> [round(float(number), 6) for number in weight]
    [0.9, 0.9, 0.9]
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def slots(self, name: str, shape: Shape) -> dict[str, Shape]:
        """Name and shape of every tensor that this optimizer remembers about the weight `name`; all float32."""
        raise NotImplementedError

    def change(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, count: Tensor
    ) -> tuple[Tensor, Slots]:
        """What is to be subtracted from `weight`, decay apart, and the new slots; `count` is 1.0 at the first update."""
        raise NotImplementedError

    def update(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        """The weight after one update, and its new slots, as new float32 tensors; nothing is changed in place.

        `step` counts the updates made before this one. It and `lr` may be numbers or traced scalars.
        """
        weight = ops.convert_to_tensor(weight, "float32")
        gradient = ops.convert_to_tensor(gradient, "float32")
        slots = {slot: ops.convert_to_tensor(value, "float32") for slot, value in slots.items()}
        lr = ops.convert_to_tensor(lr, "float32")
        count = ops.cast(step, "float32") + 1.0
        change, new_slots = self.change(name, weight, gradient, slots, lr=lr, count=count)
        if self.config.weight_decay > 0 and decays(self.config, name, tuple(weight.shape)):
            # Decoupled as in arXiv:1711.05101, and for every optimizer alike. A factor (1 - lr * decay) would be
            # rounded to 6e-8 beside its 1, which at a small lr * decay is a constant error of some percent.
            change = change + (lr * self.config.weight_decay) * weight
        return weight - change, new_slots


def average(old: Tensor, new: Tensor, keep: float) -> Tensor:
    """Exponential moving average: `keep` of the old value and the rest of the new one."""
    return keep * old + (1.0 - keep) * new
