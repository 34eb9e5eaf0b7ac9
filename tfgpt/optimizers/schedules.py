"""What is decided for all weights together before an update: the learning rate of the step, and the gradient's length."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.config import Config
from tfgpt.optimizers.norms import sum_of_squares
from tfgpt.optimizers.optimizer import Tensor


def learning_rate(config: Config, step: Tensor) -> Tensor:
    """The learning rate of the update that is made after `step` others, as a float32 scalar.

    It grows linearly over `warmup_steps`, is above 0 at step 0, and reaches exactly `min_lr` at `max_steps` (with
    `lr_schedule: constant` it stays at `lr`).

    >>> from tfgpt.config import Config
    >>> config = Config(lr=1e-3, warmup_steps=10, max_steps=100, data_path="x")
    >>> [round(float(learning_rate(config, step)), 6) for step in (0, 9, 55, 100)]
    [0.0001, 0.001, 0.0005, 0.0]
    """
    step = ops.convert_to_tensor(step)
    # Whole numbers are subtracted as such: as float32, steps beyond 2^24 could no longer be told apart.
    warm = ops.cast(step + 1, "float32") / max(config.warmup_steps, 1)
    fall = max(config.max_steps - config.warmup_steps, 1)
    if config.lr_schedule == "wsd":
        fall = min(fall, max(config.max_steps // 5, 1))
    # Counted from the end, where the rate is small and a share of the way, near 1, would be too coarse.
    left = ops.clip(ops.cast(config.max_steps - step, "float32") / fall, 0.0, 1.0)
    if config.lr_schedule == "cosine":
        height = ops.square(ops.sin(left * (math.pi / 2)))  # = (1 + cos(pi * progress)) / 2
    elif config.lr_schedule == "constant":
        height = ops.ones_like(left)
    else:
        height = left
    fallen = config.lr * height + config.min_lr * (1.0 - height)
    return ops.where(step < config.warmup_steps, config.lr * warm, fallen)


def clip_by_global_norm(gradients: dict[str, Tensor], limit: float) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients, shortened together where their common norm is above `limit` (0: never), and the norm before that.

    Where some gradient is not finite, neither is the norm; the gradients then mean nothing and are not to be used.

    >>> import numpy as np
    >>> clipped, norm = clip_by_global_norm({"a": np.array([3.0]), "b": np.array([4.0])}, 1.0)
    >>> float(norm), [round(float(g[0]), 6) for g in clipped.values()]
    (5.0, [0.6, 0.8])
    """
    gradients = {name: ops.convert_to_tensor(gradient, "float32") for name, gradient in gradients.items()}
    norm = _norm(gradients)
    # Squares overflow from 2e19 on. That is rare, so only then are all gradients read again, the careful way.
    norm = ops.cond(ops.isfinite(norm), lambda: norm, lambda: _norm_of_huge(gradients))
    if limit == 0:
        return gradients, norm
    factor = limit / ops.maximum(norm, limit)  # exactly 1 where nothing is to be clipped
    return {name: gradient * factor for name, gradient in gradients.items()}, norm


def _norm(gradients: dict[str, Tensor]) -> Tensor:
    return ops.sqrt(ops.sum(ops.stack([sum_of_squares(gradient) for gradient in gradients.values()])))


def _norm_of_huge(gradients: dict[str, Tensor]) -> Tensor:
    # A power of two in place of the largest number would not do: XLA takes constants out of squares, and they underflow.
    largest = ops.max(ops.stack([ops.max(ops.abs(gradient)) for gradient in gradients.values()]))
    norm = largest * _norm({name: gradient / largest for name, gradient in gradients.items()})
    return ops.where(ops.isinf(largest), largest, norm)
