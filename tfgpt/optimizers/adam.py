"""AdamW (arXiv:1412.6980 with the decoupled decay of arXiv:1711.05101)."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.optimizers.optimizer import Optimizer, Shape, Slots, Tensor, average


class AdamW(Optimizer):
    """Steps of about `lr` for each number, whatever its gradient's size; two float32 of state a parameter.

    Keys: `beta1`, `beta2`, `epsilon`, `weight_decay`, `decay`. The same result as torch.optim.AdamW.
    """

    def slots(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"m": shape, "v": shape}

    def change(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, count: Tensor
    ) -> tuple[Tensor, Slots]:
        beta1, beta2 = self.config.beta1, self.config.beta2
        m = average(slots["m"], gradient, beta1)
        v = average(slots["v"], ops.square(gradient), beta2)
        # The corrections for the start are put into scalars, which spares two passes over the weight.
        rate, correction = lr / weight_given(beta1, count), 1.0 / weight_given(beta2, count)
        return rate * m / (ops.sqrt(v * correction) + self.config.epsilon), {"m": m, "v": v}


def weight_given(beta: float, count: Tensor) -> Tensor:
    """1 - beta^count: how much of a moving average that began at zero is observations by now."""
    if beta == 0:
        return ops.ones_like(count)
    # In float32 the plain form loses three digits at the first steps with a beta near one; expm1 loses none.
    return -ops.expm1(count * math.log(beta))
