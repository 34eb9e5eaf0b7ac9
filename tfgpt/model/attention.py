"""Causal attention whose memory grows with the length, not with its square: global, sliding, and local inside spans.

Queries are worked in blocks, each against only the keys that it can see. What the backward pass needs is the output and one
number a query, the logarithm of its softmax's divisor; probabilities are computed again there (FlashAttention, arXiv
2205.14135, without its kernels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from tfgpt.model.layers import after
from tfgpt.model.randomness import fold, keep

QUERIES = 256  # a block of queries: on CPUs its scores stay within the second-level cache
GROUP = QUERIES * 1024  # scores of a head that exist at one time in local attention
HIDDEN = -1e30  # a score that no softmax sees


@dataclass(frozen=True)
class Span:
    """A grid of spans: position p belongs to span (p + shift) // size, and sees nothing outside."""

    size: int
    shift: int


@dataclass(frozen=True)
class Window:
    """Every position sees itself and the `size` - 1 before it."""

    size: int


def forward(q, k, v, *, span: Span | Window | None = None, segments=None, rate: float = 0.0, key=None):
    """Output [B, H, T, D] of q, k, v [B, H, T, D], and the logarithm of each query's divisor [B, H, T, 1], float32.

    Each position attends to itself and all before it; in its `span` or window, and in its segment where `segments` [B, T] are
    given.
    `rate` is dropout on attention weights, with its `key`.
    """
    if not isinstance(span, Span):
        return _forward(q, k, v, _causal(q.shape[2], segments, span), rate, key)
    grid = _Grid(span, q.shape, segments)
    spread = [grid.spread(x) for x in (q, k, v)]
    outputs, divisors = [], []
    for group, part in grid.groups():
        mine = [after(x[:, :, group], outputs[-1:]) for x in spread]
        out, divisor = _forward(*mine, part, rate, _own(key, group))
        outputs.append(out)
        divisors.append(divisor)
    return grid.gathered(outputs), grid.gathered(divisors)


def backward(
    q, k, v, dout, divisor, delta, *, span: Span | Window | None = None, segments=None, rate: float = 0.0, key=None
):
    """Gradients of q, k and v; `delta` [B, H, T, 1] is the sum over D of output times `dout`, float32."""
    if not isinstance(span, Span):
        return _backward(q, k, v, dout, divisor, delta, _causal(q.shape[2], segments, span), rate, key)
    grid = _Grid(span, q.shape, segments)
    spread = [grid.spread(x) for x in (q, k, v, dout, divisor, delta)]
    found: list[list[Any]] = [[], [], []]
    for group, part in grid.groups():
        mine = [x[:, :, group] for x in spread]
        mine[:3] = [after(x, [one[-1] for one in found if one]) for x in mine[:3]]
        for one, more in zip(found, _backward(*mine, part, rate, _own(key, group)), strict=True):
            one.append(more)
    return tuple(grid.gathered(one) for one in found)


@dataclass(frozen=True)
class _Seen:
    """Blocks of queries (first, start, stop), and which of the keys [first, stop) each of [start, stop) can see."""

    spans: list[tuple[int, int, int]]
    mask: Callable[[int, int, int], Any]


def _causal(length: int, segments, window: Window | None) -> _Seen:
    size = window.size if window else length

    def mask(first: int, start: int, stop: int):
        seen = _not_later(range(start, stop), range(first, stop))
        if size < stop - first:
            too_old = _not_later(range(start - size, stop - size), range(first, stop))
            seen = ops.logical_and(seen, ops.logical_not(too_old))
        seen = seen[None, None]
        if segments is not None:
            same = ops.equal(segments[:, start:stop, None], segments[:, None, first:stop])
            seen = ops.logical_and(seen, same[:, None])
        return seen

    starts = range(0, length, QUERIES)
    return _Seen([(max(0, start - size + 1), start, min(start + QUERIES, length)) for start in starts], mask)


class _Grid:
    """A text [B, H, T, D] laid out as spans [B, H, spans, size, D], worked a group of spans at a time."""

    def __init__(self, span: Span, shape, segments) -> None:
        self.size, self.front = span.size, span.shift
        self.batch, self.heads, self.length, _ = shape
        self.count = math.ceil((self.length + span.shift) / span.size)
        self.back = self.count * span.size - self.length - span.shift
        # Padding stands before every real position of its span or behind all of them. Behind, causality hides it; before,
        # it must be hidden, or zeros would be attended to.
        place = ops.reshape(ops.arange(self.count * self.size, dtype="int32"), (self.count, self.size))
        real = ops.greater_equal(place, self.front)
        seen = ops.logical_and(_not_later(range(self.size), range(self.size))[None], real[:, None, :])[None, None]
        if segments is not None:
            padded = ops.pad(segments, ((0, 0), (self.front, self.back)))
            padded = ops.reshape(padded, (self.batch, 1, self.count, self.size))
            seen = ops.logical_and(seen, ops.equal(padded[..., :, None], padded[..., None, :]))
        self.seen = seen

    def groups(self):
        step = max(1, GROUP // self.size**2)
        for first in range(0, self.count, step):
            group = slice(first, first + step)
            yield group, _Seen([(0, 0, self.size)], lambda *span, group=group: self.seen[:, :, group])

    def spread(self, x):
        x = ops.pad(x, ((0, 0), (0, 0), (self.front, self.back), (0, 0)))
        return ops.reshape(x, (self.batch, self.heads, self.count, self.size, x.shape[-1]))

    def gathered(self, parts):
        whole = ops.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
        flat = ops.reshape(whole, (self.batch, self.heads, self.count * self.size, whole.shape[-1]))
        return flat[:, :, self.front : self.front + self.length]


def _own(key, group: slice):
    return None if key is None else fold(key, group.start)


def _not_later(queries: range, keys: range):
    query = ops.arange(queries.start, queries.stop, dtype="int32")
    return ops.greater_equal(query[:, None], ops.arange(keys.start, keys.stop, dtype="int32")[None, :])


def _forward(q, k, v, seen: _Seen, rate, key):
    """Attention of the queries [start, stop) of each span over keys [first, stop) where `seen.mask` allows it."""
    dtype = q.dtype
    scale = ops.cast(1 / math.sqrt(q.shape[-1]), dtype)
    outputs, divisors = [], []
    for first, start, stop in seen.spans:
        asked = after(q[..., start:stop, :] * scale, outputs[-1:])
        s = ops.cast(ops.matmul(asked, ops.swapaxes(k[..., first:stop, :], -1, -2)), "float32")
        s = ops.where(seen.mask(first, start, stop), s, HIDDEN)
        top = ops.max(s, axis=-1, keepdims=True)
        p = ops.exp(s - top)
        total = ops.sum(p, axis=-1, keepdims=True)
        if rate and key is not None:
            p = ops.where(_alive(key, start, p.shape, rate), p * (1 / (1 - rate)), 0.0)
        found = ops.matmul(ops.cast(p, dtype), v[..., first:stop, :])
        outputs.append(ops.cast(ops.cast(found, "float32") / total, dtype))
        divisors.append(top + ops.log(total))
    return _join(outputs), _join(divisors)


def _backward(q, k, v, dout, divisor, delta, seen: _Seen, rate, key):
    # All products here are of scores that stand on their side, [keys, queries]: each then is one of plain row-major
    # matrices, for which XLA on a CPU has no need to turn the large ones over first.
    dtype = q.dtype
    scale = 1 / math.sqrt(q.shape[-1])
    turned = [ops.swapaxes(x, -1, -2) for x in (q * ops.cast(scale, dtype), k, dout, delta, divisor)]
    dq, dk, dv = [], [], []
    for first, start, stop in seen.spans:
        done = dv[-1:] + dk[-1:] + dq[-1:]
        asked, doubted, less, own_divisor = (after(turned[i][..., start:stop], done) for i in (0, 2, 3, 4))
        s = ops.cast(ops.matmul(k[..., first:stop, :], asked), "float32")
        p = ops.exp(ops.where(ops.swapaxes(seen.mask(first, start, stop), -1, -2), s, HIDDEN) - own_divisor)
        dp = ops.cast(ops.matmul(v[..., first:stop, :], doubted), "float32")
        used = p
        if rate and key is not None:
            alive = ops.swapaxes(_alive(key, start, (*p.shape[:-2], stop - start, stop - first), rate), -1, -2)
            used, dp = (ops.where(alive, x * (1 / (1 - rate)), 0.0) for x in (p, dp))
        ds = ops.cast(p * (dp - less) * scale, dtype)
        dv.append(ops.matmul(ops.cast(used, dtype), dout[..., start:stop, :]))
        dk.append(ops.matmul(ds, q[..., start:stop, :]))
        dq.append(ops.matmul(turned[1][..., first:stop], ds))
    whole = dq[0] if len(dq) == 1 else ops.concatenate(dq, axis=-1)
    return ops.swapaxes(whole, -1, -2), _sum(dk, seen.spans), _sum(dv, seen.spans)


def _alive(key, start: int, shape, rate: float):
    return keep(fold(key, start), tuple(shape), rate)


def _join(parts):
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-2)


def _sum(parts, spans):
    """Sum over all spans of queries of what each says about its keys [first, stop)."""
    sums = []
    for _, start, stop in spans:
        own = []
        for part, (first, _, end) in zip(parts, spans, strict=True):
            if end >= stop and first < stop:
                piece = part[..., max(start - first, 0) : stop - first, :]
                missing = max(first - start, 0)  # keys of this block that these queries no longer see
                own.append(
                    ops.pad(piece, [(0, 0)] * (len(piece.shape) - 2) + [(missing, 0), (0, 0)]) if missing else piece
                )
        sums.append(sum(own[1:], own[0]))
    return _join(sums)
