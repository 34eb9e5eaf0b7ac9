"""What both sides of `tfgpt bench input` read, and how they are timed. No TensorFlow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfgpt.data import records

N_VOCAB, EOT = 50257, 50256
SHARDS = 4
USUAL_LENGTH, SPREAD = 600, 1.0  # documents as long as web pages: lengths are lognormal
STITCH = 5


class Mode(NamedTuple):
    """One way to make batches: parts of the mixture (files, mode, weight), and the pipeline that does the same."""

    parts: tuple[tuple[str, str, float], ...]
    beside: str
    document_mask: bool = False


MODES = {
    "packed": Mode((("text", "packed", 1.0),), "packed"),
    "packed, document mask": Mode((("text", "packed", 1.0),), "packed", document_mask=True),
    "random_sample": Mode((("text", "random_sample", 1.0),), "stitched"),
    "sample": Mode((("text", "sample", 1.0),), "stitched"),
    "chunk": Mode((("chunk", "chunk", 1.0),), "chunk"),
    "mixture": Mode((("text", "packed", 0.7), ("chunk", "chunk", 0.3)), "mixture"),
}


@dataclass(frozen=True)
class Work:
    """One benchmark; travels to both processes as JSON."""

    folder: str
    n_ctx: int
    batch_size: int
    seconds: float

    @classmethod
    def given(cls) -> Work:
        """The work that this process was started for."""
        return cls(**json.loads(sys.argv[1]))

    def paths(self, kind: str) -> list[str]:
        """Files of documents ("text"), or of records that are n_ctx + 1 tokens long ("chunk")."""
        return sorted(str(path) for path in Path(self.folder).glob(f"{kind}_*.tfrecords"))

    def speed(self, batch: Callable[[], tuple[np.ndarray, np.ndarray]]) -> float:
        """Tokens a second of calling `batch` again and again; the first call is not timed."""
        shape = (self.batch_size, self.n_ctx)
        ids, labels = batch()
        assert ids.shape == labels.shape == shape, "a batch of another shape than asked for"
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < self.seconds or not count:
            batch()
            count += 1
        return count * self.batch_size * self.n_ctx / passed


def write_records(folder: Path, tokens: int, n_ctx: int) -> None:
    """The same ids twice: as documents, and cut into records of n_ctx + 1."""
    rng = np.random.default_rng(0)
    share = 1.0 / (np.arange(EOT) + 2.7)  # as frequent as words are
    borders = np.cumsum(share / share.sum())
    for shard in range(SHARDS):
        ids = np.searchsorted(borders, rng.random(max(tokens // SHARDS, n_ctx + 1))).clip(0, EOT - 1).astype(np.uint32)
        drawn = np.maximum(rng.lognormal(np.log(USUAL_LENGTH), SPREAD, len(ids) // 100).astype(int), 1)
        ends = np.cumsum(drawn)  # far more than are needed
        lengths = np.diff([0, *ends[ends < len(ids)], len(ids)]).tolist()
        whole = len(ids) // (n_ctx + 1)
        _write(folder / f"text_{shard}.tfrecords", ids, lengths)
        _write(folder / f"chunk_{shard}.tfrecords", ids[: whole * (n_ctx + 1)], [n_ctx + 1] * whole)


def _write(path: Path, ids: np.ndarray, lengths: list[int]) -> None:
    hashes = [number.to_bytes(8, "little") for number in range(len(lengths))]
    path.write_bytes(b"".join(records.encode_documents(ids, lengths, hashes)))
