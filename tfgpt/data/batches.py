"""Batches by their position: the batch of step 10**6 is made without a look at those before it.

>>> from tfgpt import config
>>> from tfgpt.data.inputs import open_inputs
>>> inputs = open_inputs(config.load("quickstart"))                      # doctest: +SKIP
>>> inputs.train.batch(1_000_000).ids.shape                              # doctest: +SKIP
(16, 128)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfgpt.data import order
from tfgpt.data.windows import FixedSource, Source

NOISE, REPLACEMENT = 4, 5


class Batch(NamedTuple):
    """What one step is given; a `stack` has an axis of steps in front.

    ids       [B, T] int32
    labels    [B, T] int32: the token that follows each id; -1 where there is none, or none to learn: it counts for nothing
    segments  [B, T] int32 or None: number of the document within the window, for attention that stays inside documents
    """

    ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray | None


class Batches:
    """Batches of `batch_size` windows of `n_ctx` tokens.

    steps_per_epoch  steps after which every window of the data has been used once; rarely a whole number
    count            evaluation: how many batches there are; training: None, it has no end
    """

    count: int | None = None
    steps_per_epoch: float
    sources: Sequence[Any] = ()
    # Sources of the same windows with 1 for a token that counts and 0 for one that does not; none: all tokens count.
    marks: Sequence[Any] = ()

    def __init__(
        self,
        *,
        batch_size: int,
        n_ctx: int,
        eot: int,
        document_mask: bool = False,
        noise: float = 0.0,
        n_vocab: int = 0,
        seed: int = 0,
    ) -> None:
        self.batch_size, self.n_ctx, self.eot, self.document_mask = batch_size, n_ctx, eot, document_mask
        self.noise, self.n_vocab, self.seed = noise, n_vocab, seed

    def batch(self, position: int, *, rows: slice | None = None) -> Batch:
        """The batch at `position`; `rows` takes a worker's share of it, and makes no more than that."""
        whole = self.stack(position, 1, rows=rows)
        return Batch(whole.ids[0], whole.labels[0], None if whole.segments is None else whole.segments[0])

    def epoch(self, position: int) -> float:
        """How often the whole data has been seen before the batch at `position`."""
        return position / self.steps_per_epoch

    def stack(self, first: int, count: int, *, rows: slice | None = None) -> Batch:
        """`count` batches from `first` on as arrays of [count, B, T], for several steps in one call to a device."""
        assert first >= 0 and count >= 1
        if self.count is not None and first + count > self.count:
            raise IndexError(f"batch {first + count - 1} of {self.count}")
        mine = np.arange(self.batch_size)[rows or slice(None)]
        examples = (np.arange(first, first + count)[:, None] * self.batch_size + mine).ravel()
        windows = np.full((len(examples), self.n_ctx + 1), self.eot, np.int32)
        real = np.zeros(len(examples), np.int64)
        ids, labels = self._windows(examples, windows, real)  # [examples, T]
        segments = self._segments(ids) if self.document_mask else None
        ids = self._noisy(ids, examples)
        shape = (count, len(mine), self.n_ctx)
        return Batch(ids.reshape(shape), labels.reshape(shape), None if segments is None else segments.reshape(shape))

    def _windows(self, examples: np.ndarray, windows: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of `examples`; `windows` and `real` are room to work in."""
        self._fill(self.sources, examples, windows, real)
        # Copies, not views: ids and labels are changed each for itself.
        ids, labels = windows[:, :-1].copy(), windows[:, 1:].copy()
        if real.min(initial=self.n_ctx) < self.n_ctx:
            padding = np.arange(self.n_ctx) >= real[:, None]
            ids[padding], labels[padding] = self.eot, -1
        if self.marks:
            marks = np.zeros_like(windows)
            self._fill(self.marks, examples, marks, np.zeros_like(real))
            labels[marks[:, 1:] == 0] = -1
        return ids, labels

    def _fill(self, sources: Sequence[Any], examples: np.ndarray, windows: np.ndarray, real: np.ndarray) -> None:
        """Write the windows of `examples` in `sources`, and how many labels each has."""
        raise NotImplementedError

    def _segments(self, ids: np.ndarray) -> np.ndarray:
        # End-of-text stands before the document that it opens, so it belongs to that one.
        numbers = np.cumsum(ids == self.eot, axis=1, dtype=np.int32)
        return numbers - numbers[:, :1]

    def _noisy(self, ids: np.ndarray, examples: np.ndarray) -> np.ndarray:
        if self.noise <= 0:
            return ids
        places = examples[:, None] * self.n_ctx + np.arange(self.n_ctx)
        hit = order.mixed(self.seed, NOISE, places) < np.uint64(self.noise * 2.0**64)
        drawn = order.mixed(self.seed, REPLACEMENT, places[hit]) % np.uint64(self.n_vocab)
        ids[hit] = drawn.astype(np.int32)
        return ids


class TrainBatches(Batches):
    """Endless batches of a weighted mixture; position and row name one example, and so one window of one source."""

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], *, marks: Sequence[Source] = (), **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.sources, self.marks, self.turns = sources, marks, order.Turns(weights)
        self.steps_per_epoch = sum(source.count for source in sources) / self.batch_size

    def _fill(self, sources: Sequence[Source], examples: np.ndarray, windows: np.ndarray, real: np.ndarray) -> None:
        if len(sources) == 1:
            sources[0].fill(examples, windows, real)
            return
        turns, numbers = self.turns.of(examples)
        _by_source(sources, turns, numbers, windows, real, "fill")


class EvalBatches(Batches):
    """The same windows every time: all of them, or a fixed number spread evenly over the whole evaluation text."""

    def __init__(
        self, sources: Sequence[FixedSource], *, steps: int | str, marks: Sequence[FixedSource] = (), **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.sources, self.marks = sources, marks
        self._ends = np.cumsum([source.count for source in sources])
        self.total = int(self._ends[-1])
        self.used = self.total if steps == "all" else min(self.total, int(steps) * self.batch_size)
        self.count = -(-self.used // self.batch_size)
        self.steps_per_epoch = self.count

    def _fill(
        self, sources: Sequence[FixedSource], examples: np.ndarray, windows: np.ndarray, real: np.ndarray
    ) -> None:
        present = np.flatnonzero(examples < self.used)  # the rest of the last batch stays padding
        chosen = examples[present] * self.total // self.used
        source = np.searchsorted(self._ends, chosen, side="right")
        numbers = chosen - (self._ends - [s.count for s in self.sources])[source]
        filled, lengths = windows[present], real[present]
        _by_source(sources, source, numbers, filled, lengths, "fill_fixed")
        windows[present], real[present] = filled, lengths


def _by_source(
    sources: Sequence[Source | FixedSource],
    turns: np.ndarray,
    numbers: np.ndarray,
    windows: np.ndarray,
    real: np.ndarray,
    how: str,
) -> None:
    for source, maker in enumerate(sources):
        mine = np.flatnonzero(turns == source)
        if len(mine):
            rows, lengths = windows[mine], real[mine]
            getattr(maker, how)(numbers[mine], rows, lengths)
            windows[mine], real[mine] = rows, lengths
