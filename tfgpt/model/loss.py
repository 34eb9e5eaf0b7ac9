"""The loss over the vocabulary, a few tokens at a time, so that the logits of a batch never exist all at once."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.model.layers import after

CHUNK_BYTES = 64 << 20  # of float32 logits held at one time
MOST_CHUNKS = 32  # beyond this the compiler's time grows more than memory shrinks


def chunk_size(tokens: int, rows: int) -> int:
    """How many tokens are worked at a time; the last part of a batch may be shorter, or 1021 tokens were 1021 parts."""
    count = min(MOST_CHUNKS, math.ceil(tokens * rows * 4 / CHUNK_BYTES))
    return math.ceil(tokens / count)


def cross_entropy(hidden, table, labels, *, n_vocab: int):
    """Sum of the losses of all tokens in nats, float32; tokens whose label is negative do not count.

    hidden: [N, E]; table: [V, E] in the same type, rows from `n_vocab` on are padding and get no probability; labels: [N].
    """
    total = ops.zeros((), "float32")
    for part, label in _parts(hidden, labels, table.shape[0]):
        # Each part waits for the one before: parallel executors would hold the logits of all parts at once.
        total = total + _loss(after(part, [total]), table, label, n_vocab)[0]
    return total


def gradients(hidden, table, labels, *, n_vocab: int, scale):
    """That sum times `scale`, and its gradients of hidden and, in float32, of the table.

    They are computed on the way: logits are multiplied three times instead of four.
    """
    total, dtable = ops.zeros((), "float32"), None
    dhidden = []
    for part, label in _parts(hidden, labels, table.shape[0]):
        if (
            dtable is not None
        ):  # waits for what the part before adds to the table's gradient, which is as large as the table
            part = after(part, [dtable])
        found, p, hit, counts = _loss(part, table, label, n_vocab)
        total = total + found
        d = ops.cast((p - ops.cast(hit, "float32")) * (counts * scale), hidden.dtype)
        dhidden.append(ops.matmul(d, table))
        more = ops.cast(ops.matmul(ops.transpose(d), part), "float32")
        dtable = more if dtable is None else dtable + more
    return total * scale, ops.concatenate(dhidden, axis=0) if len(dhidden) > 1 else dhidden[0], dtable


def _parts(hidden, labels, rows: int):
    size = chunk_size(hidden.shape[0], rows)
    for first in range(0, hidden.shape[0], size):
        yield hidden[first : first + size], labels[first : first + size]


def _loss(hidden, table, labels, n_vocab: int):
    """Summed loss; probabilities [N, V]; where the labels are [N, V]; which tokens count [N, 1]."""
    counts = ops.cast(ops.greater_equal(labels, 0), "float32")[:, None]
    logits = _logits(hidden, table, n_vocab)
    top = ops.max(logits, axis=-1, keepdims=True)
    p = ops.exp(logits - top)
    divisor = ops.sum(p, axis=-1, keepdims=True)
    hit = ops.equal(ops.arange(table.shape[0], dtype="int32")[None, :], labels[:, None])
    right = ops.sum(ops.where(hit, logits, 0.0), axis=-1, keepdims=True)
    return ops.sum((ops.log(divisor) + top - right) * counts), p / divisor, hit, counts


def _logits(hidden, table, n_vocab: int):
    """[N, V] float32, the padding of the vocabulary at minus infinity (near enough)."""
    logits = ops.cast(ops.matmul(hidden, ops.transpose(table)), "float32")
    if n_vocab == table.shape[0]:
        return logits
    return ops.where(ops.arange(table.shape[0], dtype="int32")[None, :] < n_vocab, logits, -1e30)
