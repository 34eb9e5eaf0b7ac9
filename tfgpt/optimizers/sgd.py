"""Gradient descent."""

from __future__ import annotations

from tfgpt.optimizers.optimizer import Optimizer, Shape, Slots, Tensor


class SGD(Optimizer):
    """Plain gradient descent without any state; with `beta1` above 0, classical momentum (one float32 a parameter).

    Momentum follows PyTorch: m = beta1 * m + gradient; weight -= lr * m. The gradient enters with its full weight, so
    that a `beta1` of 0.9 goes ten times as far as without it, and wants a smaller `lr`.
    """

    def slots(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"m": shape} if self.config.beta1 > 0 else {}

    def change(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, count: Tensor
    ) -> tuple[Tensor, Slots]:
        if self.config.beta1 == 0:
            return lr * gradient, {}
        m = self.config.beta1 * slots["m"] + gradient
        return lr * m, {"m": m}
