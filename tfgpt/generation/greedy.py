"""The likeliest continuation of a prompt, for a look at a model while it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgpt.model import GPT


class Greedy:
    """Continues prompts by the likeliest token each time, the whole context anew for every token.

    One compiled function serves all lengths, as the window is always n_ctx long and what stands behind the text is
    hidden by causality.

    >>> Greedy(gpt)([464, 2068], tokens=20)                           # doctest: +SKIP
    [464, 2068, 7586, ...]
    """

    def __init__(self, gpt: GPT) -> None:
        self.gpt = gpt
        self._next = tf.function(self._likeliest)

    def __call__(self, prompt: Sequence[int], *, tokens: int, stop: int | None = None) -> list[int]:
        """`prompt` and up to `tokens` more ids; `stop` ends the text."""
        text, size = list(prompt), self.gpt.form.n_ctx
        for _ in range(tokens):
            seen = text[-size:]
            window = np.zeros((1, size), np.int32)
            window[0, : len(seen)] = seen
            found = int(self._next(tf.constant(window), tf.constant(len(seen) - 1)))
            if found == stop:
                break
            text.append(found)
        return text

    def _likeliest(self, ids, last):
        weights = self.gpt.cast(self.gpt.values())
        hidden = self.gpt.hidden(weights, ids)[:, last]  # [1, E]
        logits = tf.matmul(hidden, weights["wte.weight"], transpose_b=True)[0, : self.gpt.form.n_vocab]
        return tf.argmax(logits, output_type=tf.int32)
