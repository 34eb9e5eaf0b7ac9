"""A memory of document hashes: 16 bytes a document, however many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SeenHashes:
    """Tells which documents of a batch were never seen before.

    Sorted runs that double in size, as a log-structured store keeps them: a million documents cost 16 MB and some twenty
    searches, where a Python set would take 100 MB.

    >>> seen = SeenHashes()
    >>> seen.add([b"%032x" % 1, b"%032x" % 2, b"%032x" % 1]).tolist()
    [True, True, False]
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # each [documents, 2] uint64, sorted by the first column

    def add(self, hashes: Sequence[bytes]) -> np.ndarray:
        """Remember the hashes (32 hex digits each); True where a document is the first of its kind."""
        if not hashes:
            return np.zeros(0, bool)
        pairs = np.frombuffer(bytes.fromhex(b"".join(hashes).decode("ascii")), ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((np.arange(len(pairs)), pairs[:, 1], pairs[:, 0]))
        ordered = pairs[order]
        first = np.ones(len(pairs), bool)
        first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
        for run in self._runs:
            first &= ~_contains(run, pairs)
        self._insert(pairs[first])
        return first

    def _insert(self, pairs: np.ndarray) -> None:
        if not len(pairs):
            return
        self._runs.append(_sorted(pairs))
        while len(self._runs) > 1 and len(self._runs[-1]) * 2 > len(self._runs[-2]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            self._runs.append(_sorted(merged))


def _sorted(pairs: np.ndarray) -> np.ndarray:
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _contains(run: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Whether each pair is in the run."""
    at = np.searchsorted(run[:, 0], pairs[:, 0])
    behind = np.searchsorted(run[:, 0], pairs[:, 0], side="right")
    found = behind > at
    at[~found] = 0
    found &= (behind - at > 1) | (run[at] == pairs).all(axis=1)
    # Different documents whose first 64 bits agree: as good as never, but then one by one.
    for row in np.flatnonzero(found & (behind - at > 1)):
        found[row] = pairs[row, 1] in run[at[row] : behind[row], 1]
    return found
