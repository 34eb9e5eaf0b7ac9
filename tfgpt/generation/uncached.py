"""An engine over a model that is being trained: nothing is packed or kept, so its weights may change between two tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfgpt.model import GPT

SMALLEST = 64  # tokens of the shortest window; each is twice the one before, so that few are compiled


class Uncached:
    """Computes all that a slot holds anew for each token: slow, and right for a look at a model in training.

    >>> Uncached(gpt).prefill_many({0: [464, 2068]})[0].shape                             # doctest: +SKIP
    (50257,)
    """

    def __init__(self, gpt: GPT, *, slots: int = 1) -> None:
        self.n_ctx, self.slots = gpt.form.n_ctx, slots
        self._gpt = gpt
        self._held: dict[int, list[int]] = {}
        self._last = tf.function(lambda ids, last: gpt(ids)[0, last], autograph=False)

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """Logits [V] after the last of the ids in each of these slots, which forget what they held."""
        self._held |= {slot: list(ids) for slot, ids in prompts.items()}
        return {slot: self._logits(self._held[slot]) for slot in prompts}

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Logits [V] after one more id in each of these slots."""
        for slot, token in tokens.items():
            self._held[slot].append(token)
        return {slot: self._logits(self._held[slot]) for slot in tokens}

    def _logits(self, ids: Sequence[int]) -> np.ndarray:
        assert 1 <= len(ids) <= self.n_ctx
        size = SMALLEST
        while size < len(ids):
            size *= 2
        # What stands behind the text is hidden by causality.
        window = np.zeros((1, min(size, self.n_ctx)), np.int32)
        window[0, : len(ids)] = ids
        return np.asarray(self._last(tf.constant(window), tf.constant(len(ids) - 1)), np.float32)
