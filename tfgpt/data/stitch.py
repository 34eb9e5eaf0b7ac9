"""One window out of several documents stitched together: the lineage's way of making batches, kept and mended.

Every epoch the documents are shuffled and taken in groups of `stitch`; a group is joined with end-of-text between its documents
(not at the ends), and one window of n_ctx + 1 tokens is taken from it. What is left of the group is not seen in that
epoch, which is what mode "packed" exists for.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from tfgpt.data import order
from tfgpt.data.windows import SHUFFLE, Stream

OFFSET = 3
GENEROUS = 4  # a computed stitch joins at most so many times the tokens that a window needs


class Stitched:
    """Groups of documents, one window each.

    stitch  documents in a group; None computes it from their lengths, see `enough`
    random  whether the window lies anywhere in the stitched text (both ends included) or at its beginning
    """

    def __init__(self, stream: Stream, *, n_ctx: int, key: int, stitch: int | None, random: bool) -> None:
        self.stream, self.n_ctx, self.key, self.random = stream, n_ctx, key, random
        self._starts = stream.starts()
        self._documents = len(self._starts) - 1
        shortest = min(store.shortest for store in stream.stores)
        always = enough(n_ctx, shortest)
        computed = min(always, GENEROUS * enough(n_ctx, stream.length / self._documents))
        # A group never holds a document twice.
        self.stitch = min(stitch or computed, self._documents)
        self.count = -(-self._documents // self.stitch)
        self.targets = self.count * n_ctx
        self.note = ""
        if self.stitch * shortest + self.stitch - 1 < n_ctx + 1:
            self.note = (
                f"{self.stitch} stitched documents may be shorter than a window of {n_ctx + 1} tokens (the shortest one has "
                f"{shortest}); such windows are padded. stitch {always} always fills them, and mode packed needs no stitch"
            )

    def fill(self, numbers: np.ndarray, rows: np.ndarray, real: np.ndarray) -> None:
        """See `windows.Source`; the last group of an epoch is filled up from that epoch's first documents."""
        epoch, place = np.divmod(numbers, self.count)
        members = (place[:, None] * self.stitch + np.arange(self.stitch)) % self._documents  # [rows, stitch]
        key = order.mixed(self.key, SHUFFLE, epoch)[:, None]
        documents = order.permuted(members, self._documents, key)
        starts = self._starts[documents]
        ends = np.cumsum(self._starts[documents + 1] - starts, axis=1)  # each with its end-of-text
        total = ends[:, -1] - 1  # there is none behind the last document
        offsets = np.zeros_like(total)
        if self.random:
            # Every offset from which n_ctx + 1 tokens follow: the last one makes the last token a label.
            choices = np.maximum(total - self.n_ctx, 1).astype(np.uint64)
            offsets = (order.mixed(self.key, OFFSET, epoch, place) % choices).astype(np.int64)
        real[:] = np.clip(total - 1, 0, self.n_ctx)
        for row, group, borders, offset, length in zip(
            rows, starts, ends, offsets.tolist(), real.tolist(), strict=True
        ):
            self._join(row[: length + 1], group.tolist(), borders.tolist(), offset)

    def _join(self, out: np.ndarray, starts: list[int], ends: list[int], offset: int) -> None:
        member = bisect_right(ends, offset)
        filled = 0
        while filled < len(out):
            begin = ends[member - 1] if member else 0
            size = min(ends[member] - offset, len(out) - filled)
            self.stream.copy(starts[member] + offset - begin, out[filled : filled + size])
            filled, offset, member = filled + size, offset + size, member + 1


def enough(n_ctx: int, shortest: float) -> int:
    """Documents of that length which always hold a window: ceil((n_ctx + 1) / shortest).

    The shortest document of all decides, but a few tiny ones do not make a group hundreds of documents long: a computed stitch
    is at most GENEROUS times what documents of the mean length need, and the odd short group is padded.

    >>> enough(1024, 128)
    9
    """
    return max(1, int(np.ceil((n_ctx + 1) / shortest)))
