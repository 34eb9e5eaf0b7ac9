"""The loss over the vocabulary, a few tokens at a time, so that the logits of a batch never exist all at once."""

from __future__ import annotations

import math

from keras import ops

from tfgpt.model.layers import after

CHUNK_BYTES = 32 << 20  # of float32 logits held at one time
MOST_CHUNKS = 32  # beyond this the compiler's time grows more than memory shrinks
MOST_PIECES = 8  # of the table, to add to its gradient; each still has work for many cores


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


def gradients(hidden, table, labels, *, n_vocab: int, scale, in_place: bool = False):
    """That sum times `scale`, and its gradients of hidden and, in float32, of the table.

    They are computed on the way: logits are multiplied three times instead of four. `in_place` is for compilers that change
    an array in a loop without a copy of it: what a part adds to the table's gradient then never exists as a whole.
    """
    pieces = _pieces(table.shape[0]) if in_place else 1
    total, dtable = ops.zeros((), "float32"), None
    dhidden = []
    for part, label in _parts(hidden, labels, table.shape[0]):
        if dtable is not None:
            part = after(part, [dtable])  # waits for what the part before adds, which is large
        found, p, hit, counts = _loss(part, table, label, n_vocab)
        total = total + found
        d = ops.cast((p - ops.cast(hit, "float32")) * (counts * scale), hidden.dtype)
        dhidden.append(ops.matmul(d, table))
        dtable = _product(d, part) if dtable is None else _add(dtable, d, part, pieces)
    return total * scale, ops.concatenate(dhidden, axis=0) if len(dhidden) > 1 else dhidden[0], dtable


def _pieces(rows: int) -> int:
    """How many equal pieces of a table of `rows` are added to one by one."""
    return next(count for count in range(MOST_PIECES, 0, -1) if rows % count == 0)


def _product(d, hidden):
    return ops.cast(ops.matmul(ops.transpose(d), hidden), "float32")


def _add(dtable, d, hidden, count: int):
    """`dtable` [V, E] and the product of d [N, V] and hidden [N, E], in `count` pieces."""
    if count == 1:
        return dtable + _product(d, hidden)
    size = dtable.shape[0] // count

    def one(i, dtable):
        more = _product(ops.slice(d, (0, i * size), (d.shape[0], size)), hidden)
        return ops.slice_update(dtable, (i * size, 0), ops.slice(dtable, (i * size, 0), more.shape) + more)

    return ops.fori_loop(0, count, one, dtable)


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
