"""Peak memory of training steps in a process of its own: keys of a configuration as JSON in, bytes beyond the start out."""

from __future__ import annotations

import json
import sys

import numpy as np

from tests.model.conftest import configured
from tfgpt.benchmarks.training_work import peak_bytes


def whole_matrix(q, k, v, **how):
    """Attention as textbooks write it: every score of every head at once, kept for the backward pass."""
    from keras import ops

    scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / q.shape[-1] ** 0.5
    seen = ops.tril(ops.ones((q.shape[2], q.shape[2]), "bool"))
    p = ops.softmax(ops.where(seen, scores, -1e30))
    return ops.matmul(p, v), p


def whole_gradient(q, k, v, dout, p, delta, **how):
    from keras import ops

    ds = p * (ops.matmul(dout, ops.swapaxes(v, -1, -2)) - delta) / q.shape[-1] ** 0.5
    return ops.matmul(ds, k), ops.matmul(ops.swapaxes(ds, -1, -2), q), ops.matmul(ops.swapaxes(p, -1, -2), dout)


def main() -> None:
    keys = json.loads(sys.argv[1])
    dense = keys.pop("dense", False)
    import tensorflow as tf

    from tfgpt.model import GPT, attention
    from tfgpt.training import distribution
    from tfgpt.training.step import step_for

    if dense:
        attention.forward, attention.backward = whole_matrix, whole_gradient
    # A first small step takes what the libraries themselves hold; the second model's comes on top of it.
    for length in (128, keys.pop("n_ctx")):
        started = peak_bytes()
        config = configured(**(keys | {"n_ctx": length, "train_batch_size": 1}))
        place = distribution.place(config)
        step = step_for(config, GPT(config), place)
        ids = np.random.default_rng(0).integers(0, config.n_vocab, (1, 1, length)).astype("int32")
        for first in range(2):
            assert np.all(step.train(ids, ids, None, first=first).applied)
        del step
        tf.keras.backend.clear_session()
    print(peak_bytes() - started)


if __name__ == "__main__":
    main()
