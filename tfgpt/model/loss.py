"""The loss over the vocabulary, a few tokens at a time, so that the logits of a batch never exist all at once."""

from __future__ import annotations

import math

from keras import ops

CHUNK_BYTES = 64 << 20  # of float32 logits held at one time
MOST_CHUNKS = 32  # beyond this the compiler's time grows more than memory shrinks


def chunk_size(tokens: int, rows: int) -> int:
    """How many tokens are worked at a time; the last part of a batch may be shorter, or 1021 tokens were 1021 parts."""
    count = min(MOST_CHUNKS, math.ceil(tokens * rows * 4 / CHUNK_BYTES))
    return math.ceil(tokens / count)


def cross_entropy(hidden, table, labels, *, n_vocab: int, training: bool = False):
    """Sum of the losses of all tokens in nats, float32; tokens whose label is negative do not count.

    hidden: [N, E]; table: [V, E] in the same type, rows from `n_vocab` on are padding and get no probability; labels: [N].
    The gradient is computed on the way (logits are multiplied three times instead of four); where nobody asks for it, it
    is pruned from the graph. In `training`, each part of the tokens waits for the gradient of the one before as well.
    """
    tokens, rows = hidden.shape[0], table.shape[0]
    size = chunk_size(tokens, rows)
    dtype = hidden.dtype

    @ops.custom_gradient
    def summed(hidden, table):
        total = ops.zeros((), "float32")
        dhidden, dtable = [], 0.0
        for first in range(0, tokens, size):
            part = hidden[first : first + size]
            if first:
                # Each part waits for the one before (times zero): compilers and parallel executors would otherwise hold
                # the logits of all parts at once, and what each adds to the table's gradient. An evaluation must not
                # wait for a gradient, or it would be computed.
                part = part + ops.cast((dtable[:1] if training else total) * 0.0, dtype)
            label = labels[first : first + size]
            counts = ops.cast(ops.greater_equal(label, 0), "float32")[:, None]
            logits = _logits(part, table, n_vocab)
            top = ops.max(logits, axis=-1, keepdims=True)
            p = ops.exp(logits - top)
            divisor = ops.sum(p, axis=-1, keepdims=True)
            hit = ops.equal(ops.arange(rows, dtype="int32")[None, :], label[:, None])
            right = ops.sum(ops.where(hit, logits, 0.0), axis=-1, keepdims=True)
            total = total + ops.sum((ops.log(divisor) + top - right) * counts)
            d = ops.cast((p / divisor - ops.cast(hit, "float32")) * counts, dtype)
            dhidden.append(ops.matmul(d, table))
            dtable = dtable + ops.cast(ops.matmul(ops.transpose(d), part), "float32")
        gathered = ops.concatenate(dhidden, axis=0) if len(dhidden) > 1 else dhidden[0]

        def gradient(*upstream):
            scale = upstream[-1]
            return gathered * ops.cast(scale, dtype), ops.cast(dtable * scale, dtype)

        return total, gradient

    return summed(hidden, table)


def _logits(hidden, table, n_vocab: int):
    """[N, V] float32, the padding of the vocabulary at minus infinity (near enough)."""
    logits = ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")
    if n_vocab == table.shape[0]:
        return logits
    return ops.where(ops.arange(table.shape[0], dtype="int32")[None, :] < n_vocab, logits, -1e30)
