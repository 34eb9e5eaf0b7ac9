"""Randomness as a pure function: the same place always draws the same number, whatever else is drawn and in which order."""

from __future__ import annotations

import numpy as np


def uniform(seed: int, sample: int, position: int) -> float:
    """A number 0 <= u < 1 for the new token at `position` (from 0) of a sample, by the Philox 4x64-10 counter generator.

    No stream is shared, so a text depends on its seed and its own number alone: not on its neighbours in a batch, nor on how
    far they are.

    >>> uniform(7, 0, 3) == uniform(7, 0, 3) != uniform(7, 0, 4)
    True
    """
    bits = np.random.Philox(key=[seed, sample], counter=[position, 0, 0, 0]).random_raw()
    return float(int(bits) >> 11) * 2.0**-53
