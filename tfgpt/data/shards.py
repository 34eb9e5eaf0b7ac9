"""Shards under construction: appended to, committed now and then, and rolled when full; any state survives a kill.

Of each split there is at most one unfinished shard, `PART` files in the work folder. Their length at the last commit is
in the job's state; on resume they are cut back to it, so what was written later never existed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tfgpt import files
from tfgpt.errors import Failure

INDEX_SUFFIX = ".index.npy"


@dataclass
class Shard:
    """What the ledger knows of one finished shard."""

    file: str
    bytes: int
    records: int
    tokens: int
    text_bytes: int
    sha256: str
    index_sha256: str


@dataclass
class Counts:
    """The unfinished shard of a split, as of the last commit."""

    bytes: int = 0
    records: int = 0
    tokens: int = 0
    text_bytes: int = 0
    documents: int = 0  # source documents seen since the shard began, for shards of a number of files


@dataclass
class Limits:
    """When a shard is full: by size, or after a number of source documents as the seed's `files_per`."""

    bytes: int = 64 << 20
    documents: int | None = None


@dataclass
class Writer:
    """Appends records to the shards `{name}_0.tfrecords`, `{name}_1.tfrecords`, ... of one split."""

    folder: Path
    work: Path
    name: str
    limits: Limits
    finished: list[Shard] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._part = self.work / f"{self.name}.part"
        self._index_part = self.work / f"{self.name}.index.part"
        self._undo_uncommitted_rolls()
        self._data = _cut_back(self._part, self.counts.bytes)
        self._index = _cut_back(self._index_part, 16 * self.counts.records)

    def _undo_uncommitted_rolls(self) -> None:
        """A kill may fall between the rename of a full shard and the commit that would have known of it."""
        final = self._final()
        if self.counts.records and final.exists():
            entries = np.load(final.with_name(final.name + INDEX_SUFFIX))[: self.counts.records]
            self._index_part.write_bytes(entries.astype("<i8").tobytes())
            os.replace(final, self._part)
        number = len(self.finished)
        while (later := self.folder / f"{self.name}_{number}.tfrecords").exists() or number == len(self.finished):
            later.unlink(missing_ok=True)
            later.with_name(later.name + INDEX_SUFFIX).unlink(missing_ok=True)
            number += 1

    def add(self, record: bytes, tokens: int, text_bytes: int) -> None:
        """Append one framed record."""
        self._index.write(np.array([self.counts.bytes, tokens], "<i8").tobytes())
        self._data.write(record)
        self.counts.bytes += len(record)
        self.counts.records += 1
        self.counts.tokens += tokens
        self.counts.text_bytes += text_bytes
        if self.limits.documents is None and self.counts.bytes >= self.limits.bytes:
            self.roll()

    def count_document(self) -> None:
        """Tell that a source document has been dealt with, whether or not it left a record."""
        self.counts.documents += 1
        if self.limits.documents is not None and self.counts.documents >= self.limits.documents:
            self.roll()

    def sync(self) -> None:
        """Everything added so far is on the disk when this returns."""
        for stream in (self._data, self._index):
            stream.flush()
            os.fsync(stream.fileno())

    def roll(self) -> None:
        """Finish the present shard, if it holds anything, and begin the next."""
        if self.counts.records:
            self.sync()
            final = self._final()
            entries = np.fromfile(self._index_part, "<i8").reshape(-1, 2)
            index = final.with_name(final.name + INDEX_SUFFIX)
            with files.atomic_writer(index) as stream:
                np.save(stream, entries)
            digest = files.sha256(self._part)
            counts = self.counts
            self._data.close()
            os.replace(self._part, final)
            files.sync_folder(final.parent)
            self.finished.append(
                Shard(
                    final.name,
                    counts.bytes,
                    counts.records,
                    counts.tokens,
                    counts.text_bytes,
                    digest,
                    files.sha256(index),
                )
            )
            self._data = _cut_back(self._part, 0)
            self._index.seek(0)
            self._index.truncate()
        self.counts = Counts()

    def close(self) -> None:
        """Let go of the files; the work folder keeps what was committed."""
        self._data.close()
        self._index.close()

    def state(self) -> dict[str, object]:
        """What `restore` needs."""
        return {"finished": [asdict(shard) for shard in self.finished], "counts": asdict(self.counts)}

    @classmethod
    def restore(cls, folder: Path, work: Path, name: str, limits: Limits, state: dict) -> Writer:
        """The writer as it was at the commit that wrote `state`."""
        return cls(folder, work, name, limits, [Shard(**s) for s in state["finished"]], Counts(**state["counts"]))

    def _final(self) -> Path:
        return self.folder / f"{self.name}_{len(self.finished)}.tfrecords"


def _cut_back(path: Path, length: int):
    """`path` opened for appending at `length`; what lies behind was never committed."""
    stream = open(path, "r+b" if path.exists() else "w+b")
    if stream.seek(0, os.SEEK_END) < length:
        stream.close()
        raise Failure(
            "the unfinished shard is shorter than the last commit says: it was damaged since",
            where=str(path),
            fix="add --restart to begin anew",
        )
    stream.truncate(length)
    stream.seek(length)
    return stream
