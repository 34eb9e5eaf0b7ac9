"""How a model goes on from a prompt, for a look at it while it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgpt.model import GPT


class Continuation:
    """Continues prompts one token at a time, each drawn from the `top_k` likeliest, or the likeliest one with 1; 0: from all.

    The same seed gives the same text. The whole context is computed anew for every token; one compiled function serves all
    lengths, as the window is always n_ctx long and what stands behind the text is hidden by causality.

    >>> Continuation(gpt, top_k=1)([464, 2068], tokens=20)                # doctest: +SKIP
    [464, 2068, 7586, ...]
    """

    def __init__(self, gpt: GPT, *, top_k: int, seed: int = 0) -> None:
        self.gpt, self.seed = gpt, seed
        self.top_k = min(top_k or gpt.form.n_vocab, gpt.form.n_vocab)
        self._next = tf.function(self._draw, autograph=False)

    def __call__(self, prompt: Sequence[int], *, tokens: int, stop: int | None = None) -> list[int]:
        """`prompt` and up to `tokens` more ids; `stop` ends the text."""
        text, size = list(prompt), self.gpt.form.n_ctx
        for number in range(tokens):
            seen = text[-size:]
            window = np.zeros((1, size), np.int32)
            window[0, : len(seen)] = seen
            found = int(self._next(tf.constant(window), tf.constant(len(seen) - 1), tf.constant(number)))
            if found == stop:
                break
            text.append(found)
        return text

    def _draw(self, ids, last, number):
        weights = self.gpt.cast(self.gpt.values())
        hidden = self.gpt.hidden(weights, ids)[:, last]  # [1, E]
        logits = tf.matmul(hidden, weights["wte.weight"], transpose_b=True)[:, : self.gpt.form.n_vocab]
        best, places = tf.math.top_k(tf.cast(logits, tf.float32), self.top_k)  # [1, k]
        drawn = tf.random.stateless_categorical(best, 1, seed=(self.seed, number))[0, 0]
        return places[0, drawn]
