"""Windows out of a stream of tokens: contiguous ones that cover everything once an epoch, and records that are windows.

A source of windows fills rows of n_ctx + 1 tokens: the first n_ctx are what a model reads, the last n_ctx what it should say.
`real[row]` tells how many of those labels exist; the rest of a row is padding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfgpt.data import order
from tfgpt.data.tokens import Stored
from tfgpt.errors import UserError

PHASE, SHUFFLE = 1, 2  # tell apart the hashes drawn for one epoch


class Source(Protocol):
    """What makes training windows; `count` of them are one epoch, in which `targets` labels are learnt."""

    count: int
    targets: int

    def fill(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """Number n is the window at place n % count of epoch n // count, in that epoch's order."""


class FixedSource(Protocol):
    """What makes evaluation windows."""

    count: int

    def fill_fixed(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """Windows 0..count-1, in the order of the files, the same ones always."""


class Stream:
    """All shards as one ring of tokens: document, end-of-text, document, end-of-text, ... and from the end to the start."""

    def __init__(self, stores: Sequence[Stored]) -> None:
        assert stores
        self.stores = stores
        sizes = [len(store.ids) for store in stores]
        self.bases = [0, *np.cumsum(sizes).tolist()]
        self.length = self.bases[-1]

    def copy(self, start: int, out: np.ndarray) -> None:
        """Fill `out` with the tokens from `start` on."""
        filled, wanted = 0, len(out)
        while filled < wanted:
            shard = bisect_right(self.bases, start) - 1
            at = start - self.bases[shard]
            piece = self.stores[shard].ids[at : at + wanted - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            start = (start + len(piece)) % self.length

    def starts(self) -> np.ndarray:
        """Where each document begins, and the length of it all: int64 [documents + 1]."""
        parts = [store.starts[:-1] + base for store, base in zip(self.stores, self.bases, strict=False)]
        return np.concatenate([*parts, [self.length]])


class Packed:
    """Contiguous windows: in an epoch every token of every document, and the end-of-text behind it, is a label exactly once.

    Each epoch cuts the ring at other places (the borders move by a random phase below n_ctx) and takes the windows in another
    order. As the ring has no seam, no epoch has a broken window but the one that is shorter because n_ctx does not
    divide the number of tokens; it is padded.
    """

    def __init__(self, stream: Stream, *, n_ctx: int, key: int) -> None:
        self.stream, self.n_ctx, self.key = stream, n_ctx, key
        self.targets = stream.length
        self.count = -(-self.targets // n_ctx)

    def fill(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """See `Source`."""
        epoch, place = np.divmod(numbers, self.count)
        window = order.permuted(place, self.count, order.mixed(self.key, SHUFFLE, epoch))
        phases = np.uint64(min(self.n_ctx, self.targets))
        self._cut(window, (order.mixed(self.key, PHASE, epoch) % phases).astype(np.int64), rows, real)

    def fill_fixed(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """See `FixedSource`."""
        self._cut(numbers, np.zeros_like(numbers), rows, real)

    def _cut(self, windows: np.ndarray, phases: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        real[:] = np.minimum(self.n_ctx, self.targets - windows * self.n_ctx)
        # The input before the first label of the ring is the end-of-text that closes the last document.
        starts = (windows * self.n_ctx + phases - 1) % self.targets
        for row, start, length in zip(rows, starts.tolist(), real.tolist(), strict=True):
            self.stream.copy(start, row[: length + 1])


class Chunks:
    """Records that are n_ctx + 1 tokens long already; each is one window, in another order every epoch."""

    def __init__(self, stream: Stream, *, n_ctx: int, key: int) -> None:
        self.stream, self.n_ctx, self.key = stream, n_ctx, key
        for store in stream.stores:
            if not store.shortest == store.longest == n_ctx + 1:
                lengths = np.diff(store.starts) - 1
                wrong = int(np.flatnonzero(lengths != n_ctx + 1)[0])
                raise UserError(
                    f'mode "chunk" needs records of n_ctx + 1 = {n_ctx + 1} tokens, but document {wrong} has {lengths[wrong]}',
                    where=store.path,
                    fix='use mode "packed", which takes documents of any length',
                )
        self._starts = stream.starts()
        self.count = len(self._starts) - 1
        self.targets = self.count * n_ctx

    def fill(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """See `Source`."""
        epoch, place = np.divmod(numbers, self.count)
        self.fill_fixed(order.permuted(place, self.count, order.mixed(self.key, SHUFFLE, epoch)), rows, real)

    def fill_fixed(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """See `FixedSource`."""
        real[:] = self.n_ctx
        for row, start in zip(rows, self._starts[numbers].tolist(), strict=True):
            self.stream.copy(start, row)
