"""The one kind of variable that a run consists of: weights, what the optimizer remembers, the loss scale."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np


def own_copies(
    name: str, shape: tuple[int, ...], first: Callable[[], np.ndarray], *, trainable: bool = False
) -> keras.Variable:
    """A float32 variable of which every replica owns a copy; `first` makes its first value.

    Every replica computes the same update and writes its own copy, so no copy ever has to be sent, and steps can loop on
    the device. Whoever reads it from outside is given the first replica's.
    """
    return keras.Variable(
        lambda shape, dtype=None: first(),
        shape=shape,
        dtype="float32",
        autocast=False,
        trainable=trainable,
        synchronization="on_read",
        aggregation="only_first_replica",
        name=name.replace(".", "_").replace("/", "_"),
    )
