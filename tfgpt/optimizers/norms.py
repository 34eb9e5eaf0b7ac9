"""Sums of squares that stay exact for tensors of many millions of numbers."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.optimizers.optimizer import Tensor


def sum_of_squares(x: Tensor) -> Tensor:
    """The sum of all squares in `x`, as a float32 scalar."""
    squares = ops.square(x)
    if len(x.shape) >= 2:
        # XLA on a CPU adds a long run of numbers in a few lanes, slowly and to 7e-6. It would join a sum of the rows'
        # sums into such a run again, but not through a root: so it is exact to 2e-7, in little more than half the time.
        squares = ops.square(ops.sqrt(ops.sum(squares, axis=-1)))
    return ops.sum(squares)


def root_mean_square(x: Tensor) -> Tensor:
    """sqrt(mean(x^2)), as a float32 scalar."""
    return ops.sqrt(sum_of_squares(x) / math.prod(x.shape))
