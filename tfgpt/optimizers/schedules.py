"""What is decided for all weights together before an update: the learning rate of the step, and the clip."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.config import Config
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


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """What gradients of this common norm are multiplied by: exactly 1 up to `limit` (0: always), below 1 beyond.

    >>> float(clip_factor(5.0, 1.0)), float(clip_factor(0.5, 1.0)), float(clip_factor(5.0, 0))
    (0.20000000298023224, 1.0, 1.0)
    """
    norm = ops.convert_to_tensor(norm, "float32")
    return ops.ones_like(norm) if limit == 0 else limit / ops.maximum(norm, limit)
