"""The token store: each TFRecord shard is read and verified once, and is mapped into memory from then on.

A shard becomes three files in the cache: its ids one after the other (every document followed by end-of-text), where each
document begins, and a small JSON that is written last and says that the other two are whole. They are known by the shard's
sha256 where a ledger gives it, otherwise by path, size and modification time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt import files, locks
from tfgpt.data import shard_reader
from tfgpt.data.shards import Shard
from tfgpt.errors import Failure
from tfgpt.progress import Progress

FORMAT = "tfgpt-tokens-1"  # changes when the files would hold something else


@dataclass(frozen=True)
class Stored:
    """The tokens of one shard.

    ids       [tokens] uint16 or uint32: the ids of every document, each document followed by end-of-text
    starts    [documents + 1] int64: where each document begins in `ids`, and where the last one ends
    shortest  tokens of the shortest document, end-of-text not counted; longest likewise
    lost      damaged records that were passed over
    """

    path: str
    ids: np.ndarray
    starts: np.ndarray
    sha256: str
    shortest: int
    longest: int
    largest: int
    lost: int


def open_shards(
    paths: Sequence[str], *, eot: int, n_vocab: int, promised: Mapping[str, Shard] | None = None, skip: bool = False
) -> tuple[list[Stored], list[str]]:
    """The stores of `paths`, built where they are not in the cache yet, and notes about what was passed over.

    promised  what a ledger says of these paths; a shard that does not fit is refused
    skip      pass over damaged records instead of stopping at the first one

    >>> stores, notes = open_shards(["data/my_text/text_0.tfrecords"], eot=50256, n_vocab=50257)   # doctest: +SKIP
    """
    jobs = [_Job(path, (promised or {}).get(path), eot, n_vocab, skip) for path in paths]
    found = [job.stored() for job in jobs]
    missing = [job for job, stored in zip(jobs, found, strict=True) if stored is None]
    if missing:
        files.require_space(files.cache_folder(), sum(job.room for job in missing), purpose="the token store")
        with Progress("read tokens", total=sum(job.size for job in missing)) as bar:
            found = [stored or job.build(bar) for job, stored in zip(jobs, found, strict=True)]
    stores = [stored for stored in found if stored is not None]
    for job, stored in zip(jobs, stores, strict=True):
        if stored.largest >= n_vocab:
            # The store was made for a larger vocabulary; reading the shard again finds the place.
            shard_reader.read(job.path, n_vocab=n_vocab, skip=skip).check()
            raise Failure(f"id {stored.largest} is outside the vocabulary of {n_vocab}", where=job.path)
    return [s for s in stores if len(s.starts) > 1], [_note(s) for s in stores if s.lost or len(s.starts) == 1]


class _Job:
    """One shard that is wanted."""

    def __init__(self, path: str, promised: Shard | None, eot: int, n_vocab: int, skip: bool) -> None:
        self.path, self.promised, self.eot, self.n_vocab, self.skip = path, promised, eot, n_vocab, skip
        try:
            self.size, version = files.stat(path)
        except OSError as error:
            raise Failure(f"this shard cannot be read: {error.strerror or error}", where=path, fix=_fix(path)) from None
        if promised and self.size != promised.bytes and not (skip and self.size < promised.bytes):
            raise Failure(
                f"this shard has {self.size} bytes, its ledger says {promised.bytes}: it was changed since",
                where=path,
                fix=_fix(path),
            )
        self.folder = files.cache_folder() / "tokens"
        own = [path if files.is_remote(path) else os.path.abspath(path), self.size, version]
        self.key = self._key([promised.sha256] if promised else own)
        # What was read from a damaged shard must not pass for the shard itself.
        self.damaged_key = self._key([*own, "damaged"])
        width = 2 if max(n_vocab, eot + 1) <= 1 << 16 else 4
        self.kind = np.dtype(f"<u{width}")
        tokens = promised.tokens + promised.records if promised else self.size
        self.room = width * tokens + (8 * promised.records if promised else 0)

    def stored(self) -> Stored | None:
        """The store as it is in the cache, if it is there and whole."""
        found = self._load(self.key)
        return found or (self._load(self.damaged_key) if self.skip else None)

    def build(self, bar: Progress) -> Stored:
        """Read the shard into the cache, unless another process does it meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _turn(self.folder / f"{self.key}.lock", self.path):
            found = self.stored()
            if found is None:
                for half in self.folder.glob(f".{self.key}.*.tmp-*"):
                    half.unlink(missing_ok=True)  # of a process that was killed; we hold the lock
                self._write(bar)
                found = self.stored()
            else:
                bar.update(self.size)
        assert found is not None
        return found

    def _write(self, bar: Progress) -> None:
        reader = shard_reader.read(self.path, n_vocab=self.n_vocab, skip=self.skip)
        lengths = [np.zeros(0, np.int64)]
        largest, done = -1, 0
        with files.atomic_writer(self.folder / f"{self.key}.ids") as out:
            for ids, counts in reader.batches():
                out.write(_closed(ids, counts, self.eot).astype(self.kind).tobytes())
                largest = max(largest, int(ids.max()))
                lengths.append(counts)
                bar.update(reader.offset - done)
                done = reader.offset
        bar.update(self.size - done)
        counts = np.concatenate(lengths)
        lost = self._lost(reader, len(counts))
        starts = np.concatenate([[0], np.cumsum(counts + 1)]).astype("<i8")
        about = {
            "format": FORMAT,
            "shard": self.path,
            "sha256": reader.sha256,
            "kind": self.kind.str,
            "tokens": int(starts[-1]),
            "documents": len(counts),
            "shortest": int(counts.min()) if len(counts) else 0,
            "longest": int(counts.max(initial=0)),
            "largest": largest,
            "lost": lost,
        }
        key = self.key
        if lost or not len(counts):
            key = self.damaged_key
            os.replace(self.folder / f"{self.key}.ids", self.folder / f"{key}.ids")
        files.write_bytes(self.folder / f"{key}.starts", starts.tobytes())
        files.write_text(self.folder / f"{key}.json", json.dumps(about))

    def _lost(self, reader: shard_reader.Reader, documents: int) -> int:
        """How many records are missing, or an error where the shard is not what it should be."""
        if self.promised and reader.sha256 != self.promised.sha256:
            if not (reader.damaged or self.size < self.promised.bytes):
                raise Failure(
                    "this shard is not the one that its ledger describes: its sha256 differs",
                    where=self.path,
                    fix=_fix(self.path),
                )
            return max(self.promised.records - documents - reader.empty, 1)
        if not documents and not self.skip:
            raise Failure(
                "this shard holds no documents",
                where=self.path,
                fix="leave it out, or --set on_corrupt=skip",
            )
        return reader.damaged

    def _load(self, key: str) -> Stored | None:
        base = self.folder / key
        try:
            about = json.loads(base.with_suffix(".json").read_text("utf-8"))
            if about["format"] != FORMAT:
                return None
            kind = np.dtype(about["kind"])
            if base.with_suffix(".ids").stat().st_size != about["tokens"] * kind.itemsize:
                return None
            if base.with_suffix(".starts").stat().st_size != 8 * (about["documents"] + 1):
                return None
            ids = _mapped(base.with_suffix(".ids"), kind)
            starts = _mapped(base.with_suffix(".starts"), np.dtype("<i8"))
            rest = {name: about[name] for name in ("sha256", "shortest", "longest", "largest", "lost")}
            return Stored(self.path, ids, starts, **rest)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or the cache was tampered with: it is built anew

    def _key(self, marks: list[object]) -> str:
        return hashlib.sha256(json.dumps([FORMAT, self.eot, marks]).encode()).hexdigest()[:24]


def _closed(ids: np.ndarray, counts: np.ndarray, eot: int) -> np.ndarray:
    """`ids` with end-of-text behind each document."""
    closed = np.empty(len(ids) + len(counts), np.uint32)
    ends = np.cumsum(counts) + np.arange(len(counts))
    inside = np.ones(len(closed), bool)
    inside[ends] = False
    closed[ends] = eot
    closed[inside] = ids
    return closed


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    # An empty file cannot be mapped; a plain view of a map is sliced several times faster than numpy's own class of it.
    return np.memmap(path, kind, "r").view(np.ndarray) if path.stat().st_size else np.zeros(0, kind)


def _note(stored: Stored) -> str:
    if len(stored.starts) == 1:
        return f"{stored.path} holds no readable documents and was left out"
    records = "1 damaged record was" if stored.lost == 1 else f"{stored.lost} damaged records were"
    return f"{stored.path}: {records} passed over; tfgpt data check names them"


def _fix(path: str) -> str:
    folder = path.rpartition("/")[0] or "."
    return f"tfgpt data check {folder} looks at all of it; restore the file, or encode the text anew"


@contextmanager
def _turn(path: Path, shard: str) -> Iterator[None]:
    """Wait for the lock file `path`; the operating system frees it when its holder dies."""
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if locks.take(descriptor) and _is_still(descriptor, path):
                try:
                    yield
                finally:
                    if os.name != "nt":
                        path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)
        if not waited:
            print(f"another process is reading {shard}; waiting for it", file=sys.stderr, flush=True)
        waited = True
        time.sleep(0.1)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the file that we locked is the one under that name: its holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
