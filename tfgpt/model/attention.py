"""Causal attention whose memory grows with the length, not with its square: global, and local inside spans.

Queries are worked in blocks, each against only the keys that it can see. What is kept for the backward pass is the output
and one number a query, the logarithm of its softmax's divisor; probabilities are computed again there
(FlashAttention, arXiv 2205.14135, without its kernels).
"""

from __future__ import annotations

import math

from keras import ops

from tfgpt.model.randomness import fold, keep

QUERIES = 256  # a block of queries: on CPUs its scores stay within the second-level cache
GROUP = QUERIES * 1024  # scores of a head that exist at one time in local attention
HIDDEN = -1e30  # a score that no softmax sees


def causal(q, k, v, *, segments=None, rate: float = 0.0, key=None):
    """Each position attends to itself and all before it, in the same segment where `segments` [B, T] are given.

    q, k, v: [B, H, T, D]; the result is alike. `rate` is dropout on attention weights, with its `key`.
    """
    length = q.shape[2]
    spans = [(start, min(start + QUERIES, length)) for start in range(0, length, QUERIES)]

    def mask(start: int, stop: int):
        seen = _not_later(range(start, stop), range(stop))[None, None]
        if segments is not None:
            same = ops.equal(segments[:, start:stop, None], segments[:, None, :stop])
            seen = ops.logical_and(seen, same[:, None])
        return seen

    return _attend(q, k, v, spans, mask, rate, key)


def local(q, k, v, *, size: int, shift: int, segments=None, rate: float = 0.0, key=None):
    """Causal attention inside spans of `size` tokens: position p belongs to span (p + shift) // size.

    Work and memory are proportional to `size`. q, k, v: [B, H, T, D].
    """
    batch, heads, length, depth = q.shape
    count = math.ceil((length + shift) / size)
    front, back = shift, count * size - length - shift

    def spread(x):  # [B, H, T, D] -> [B, H, spans, size, D]
        x = ops.pad(x, ((0, 0), (0, 0), (front, back), (0, 0)))
        return ops.reshape(x, (batch, heads, count, size, depth))

    # Padding stands before every real position of its span or behind all of them. Behind, causality hides it; before,
    # it must be hidden, or zeros would be attended to.
    place = ops.reshape(ops.arange(count * size, dtype="int32"), (count, size))
    real = ops.greater_equal(place, front)
    seen = ops.logical_and(_not_later(range(size), range(size))[None], real[:, None, :])[None, None]
    if segments is not None:
        spread_segments = ops.reshape(ops.pad(segments, ((0, 0), (front, back))), (batch, 1, count, size))
        same = ops.equal(spread_segments[..., :, None], spread_segments[..., None, :])
        seen = ops.logical_and(seen, same)
    q, k, v = spread(q), spread(k), spread(v)
    step, outputs = max(1, GROUP // size**2), []
    for first in range(0, count, step):
        group = slice(first, first + step)
        own = None if key is None else fold(key, first)
        mine = [_after(x[:, :, group], outputs[-1:]) for x in (q, k, v)]
        outputs.append(_attend(*mine, [(0, size)], lambda *span, group=group: seen[:, :, group], rate, own))
    out = ops.concatenate(outputs, axis=2) if len(outputs) > 1 else outputs[0]
    out = ops.reshape(out, (batch, heads, count * size, depth))
    return out[:, :, front : front + length]


def _not_later(queries: range, keys: range):
    query = ops.arange(queries.start, queries.stop, dtype="int32")
    return ops.greater_equal(query[:, None], ops.arange(keys.start, keys.stop, dtype="int32")[None, :])


def _attend(q, k, v, spans, mask, rate, key):
    """Attention of the queries of each span (start, stop) over keys [0, stop) where `mask(start, stop)` allows it."""
    scale = 1 / math.sqrt(q.shape[-1])
    dtype = q.dtype

    def scores(q, k, start, stop, done):
        asked = _after(q[..., start:stop, :] * ops.cast(scale, dtype), done)
        found = ops.matmul(asked, ops.swapaxes(k[..., :stop, :], -1, -2))
        return ops.where(mask(start, stop), ops.cast(found, "float32"), HIDDEN)

    def kept(start, stop, shape):
        return keep(fold(key, start), tuple(shape), rate)

    @ops.custom_gradient
    def attend(q, k, v):
        outputs, divisors = [], []
        for start, stop in spans:
            s = scores(q, k, start, stop, outputs[-1:])
            top = ops.max(s, axis=-1, keepdims=True)
            p = ops.exp(s - top)
            total = ops.sum(p, axis=-1, keepdims=True)
            if rate and key is not None:
                p = ops.where(kept(start, stop, p.shape), p * (1 / (1 - rate)), 0.0)
            found = ops.matmul(ops.cast(p, dtype), v[..., :stop, :])
            outputs.append(ops.cast(ops.cast(found, "float32") / total, dtype))
            divisors.append(top + ops.log(total))
        out = _join(outputs)

        def gradient(*upstream):
            # All products here are of scores that stand on their side, [keys, queries]: each then is one of plain
            # row-major matrices, for which XLA on a CPU has no need to turn the large ones over first.
            dout = upstream[-1]
            delta = ops.sum(ops.cast(dout, "float32") * ops.cast(out, "float32"), axis=-1, keepdims=True)
            turned = [ops.swapaxes(x, -1, -2) for x in (q * ops.cast(scale, dtype), k, dout, delta)]
            dq, dk, dv = [], [], []
            for (start, stop), divisor in zip(spans, divisors, strict=True):
                done = dv[-1:] + dk[-1:] + dq[-1:]
                asked, doubted, less = (_after(turned[i][..., start:stop], done) for i in (0, 2, 3))
                s = ops.cast(ops.matmul(k[..., :stop, :], asked), "float32")
                seen = ops.swapaxes(mask(start, stop), -1, -2)
                p = ops.exp(ops.where(seen, s, HIDDEN) - ops.swapaxes(divisor, -1, -2))
                dp = ops.cast(ops.matmul(v[..., :stop, :], doubted), "float32")
                used = p
                if rate and key is not None:
                    shape = (*p.shape[:-2], stop - start, stop)
                    alive = ops.swapaxes(kept(start, stop, shape), -1, -2)
                    used, dp = (ops.where(alive, x * (1 / (1 - rate)), 0.0) for x in (p, dp))
                ds = ops.cast(p * (dp - less) * scale, dtype)
                dv.append(ops.matmul(ops.cast(used, dtype), dout[..., start:stop, :]))
                dk.append(ops.matmul(ds, q[..., start:stop, :]))
                dq.append(ops.matmul(turned[1][..., :stop], ds))
            whole = dq[0] if len(dq) == 1 else ops.concatenate(dq, axis=-1)
            return ops.swapaxes(whole, -1, -2), _gather(dk, spans), _gather(dv, spans)

        return out, gradient

    return attend(q, k, v)


def _after(x, done):
    """`x`, once all of `done` are known (times zero): or a parallel executor would work on, and hold, all blocks at once."""
    for other in done:
        x = x + ops.cast(ops.reshape(other, (-1,))[0] * ops.cast(0.0, other.dtype), x.dtype)
    return x


def _join(parts):
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-2)


def _gather(parts, spans):
    """Sum over all spans of queries of what each says about keys [0, stop)."""
    sums = []
    for start, stop in spans:
        sums.append(sum(part[..., start:stop, :] for part, (_, end) in zip(parts, spans, strict=True) if end >= stop))
    return _join(sums)
