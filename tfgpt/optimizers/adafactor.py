"""Adafactor (Shazeer and Stern, arXiv:1804.04235): second moments of a matrix from its rows and columns alone."""

from __future__ import annotations

from keras import ops

from tfgpt.optimizers.adam import weight_given
from tfgpt.optimizers.norms import root_mean_square
from tfgpt.optimizers.optimizer import Optimizer, Shape, Slots, Tensor, average

# The constants that the paper recommends: added to squared gradients, least scale of a weight, largest RMS of an update.
EPSILON_1 = 1e-30
EPSILON_2 = 1e-3
LARGEST_UPDATE = 1.0


class Adafactor(Optimizer):
    """Steps of about `lr` times the weight's own size; R + C float32 of state for an [R, C] matrix.

    Keys: `decay_type`, `decay_exponent`, `beta2` (with `decay_type: adam`), `weight_decay`, `decay`, and `beta1`, which
    above 0 adds momentum at the price of one float32 a parameter. Since `lr` is relative, 0.01 is a usual value.
    """

    def slots(self, name: str, shape: Shape) -> dict[str, Shape]:
        momentum = {"m": shape} if self.config.beta1 > 0 else {}
        if len(shape) < 2:
            return {"v": shape, **momentum}
        return {"vr": shape[:-1], "vc": shape[:-2] + shape[-1:], **momentum}

    def change(
        self, name: str, weight: Tensor, gradient: Tensor, slots: Slots, *, lr: Tensor, count: Tensor
    ) -> tuple[Tensor, Slots]:
        squares = ops.square(gradient) + EPSILON_1
        new = self.new_share(count)
        if "v" in slots:
            v = (1.0 - new) * slots["v"] + new * squares
            update, new_slots = gradient * ops.rsqrt(v), {"v": v}
        else:
            vr = (1.0 - new) * slots["vr"] + new * ops.mean(squares, axis=-1)  # [..., R]
            vc = (1.0 - new) * slots["vc"] + new * ops.mean(squares, axis=-2)  # [..., C]
            # The paper's estimate is vr * vc / mean(vr). Two roots apart, since the product of two tiny means underflows.
            by_row = ops.rsqrt(vr / ops.mean(vr, axis=-1, keepdims=True))
            update = gradient * ops.expand_dims(by_row, -1) * ops.expand_dims(ops.rsqrt(vc), -2)  # [..., R, C]
            new_slots = {"vr": vr, "vc": vc}
        update = update / ops.maximum(1.0, root_mean_square(update) / LARGEST_UPDATE)
        change = lr * ops.maximum(root_mean_square(weight), EPSILON_2) * update
        if "m" in slots:
            # Momentum of the finished change, learning rate included, as in Mesh TensorFlow and fairseq.
            change = average(slots["m"], change, self.config.beta1)
            new_slots["m"] = change
        return change, new_slots

    def new_share(self, count: Tensor) -> Tensor:
        """How much the newest squares count in the moving average: 1 minus the paper's beta2 of this step; 1 at first."""
        if self.config.decay_type == "pow":
            return ops.power(count, -self.config.decay_exponent)
        # 1 - beta2 * (1 - beta2^(t-1)) / (1 - beta2^t), shortened: the average comes out corrected for its start.
        return (1.0 - self.config.beta2) / weight_given(self.config.beta2, count)
