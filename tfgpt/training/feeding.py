"""The next stretch of data is made ready while the device works on this one."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tfgpt.data.batches import Batch, Batches


class Feed:
    """Hands out stretches of batches and prepares the one that is likely to be asked for next."""

    def __init__(self, batches: Batches, rows: slice | None = None) -> None:
        self.batches, self.rows = batches, rows
        self.waited = 0.0  # seconds that the device had nothing to do
        self._ahead: tuple[tuple[int, int], Future[Batch]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")

    def take(self, first: int, count: int, *, then: int = 0) -> Batch:
        """Batches `first` to `first + count`, stacked; `then` more are prepared behind them."""
        started = time.monotonic()
        if self._ahead is not None and self._ahead[0] == (first, count):
            found = self._ahead[1].result()
        else:
            found = self.batches.stack(first, count, rows=self.rows)
        self.waited += time.monotonic() - started
        self._ahead = None
        if then:
            where = (first + count, then)
            self._ahead = (where, self._thread.submit(self.batches.stack, *where, rows=self.rows))
        return found

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
