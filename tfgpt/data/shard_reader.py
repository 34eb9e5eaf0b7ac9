"""The token ids of one TFRecord shard, many documents at once, with every checksum and every id checked on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tfgpt import files
from tfgpt.data import records
from tfgpt.data.records import DamagedRecord
from tfgpt.errors import Failure

BATCH_BYTES = 4 << 20  # of records that are decoded together
PIECE = 1 << 20  # bytes read at once while looking for the next sound record
WIDEST = 4  # bytes of the longest varint that a vocabulary's id can take


def read(path: str, *, n_vocab: int, skip: bool = False) -> Reader:
    """A reader of the shard at `path` whose ids must be below `n_vocab`; damage stops it, or is passed over.

    >>> for ids, lengths in read("data/my_text/text_0.tfrecords", n_vocab=50257).batches():   # doctest: +SKIP
    ...     print(len(lengths), "documents of", len(ids), "tokens")
    """
    return Reader(path, n_vocab, skip)


class Reader:
    """One pass over a shard; afterwards it knows the file's sha256, the damaged places and the empty records.

    offset   bytes read so far
    damaged  places where records were passed over: one record each, or a stretch in which no record begins
    empty    records without a token, which hold nothing to learn
    """

    def __init__(self, path: str, n_vocab: int, skip: bool) -> None:
        self.path, self.n_vocab, self.skip = path, n_vocab, skip
        self.offset = self.damaged = self.empty = 0
        self.sha256 = ""

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids of many documents, one after the other (uint32), and the tokens of each (int64)."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        for offset, packed in self._documents():
            if not packed:
                self.empty += 1
                continue
            batch.append((offset, packed))
            size += len(packed)
            if size >= BATCH_BYTES:
                yield self._decoded(batch)
                batch, size = [], 0
        if batch:
            yield self._decoded(batch)

    def check(self) -> None:
        """Read everything for the sake of the errors alone."""
        for _ in self.batches():
            pass

    def _documents(self) -> Iterator[tuple[int, bytes]]:
        """Byte offset and packed ids of every sound record."""
        start = 0
        while True:
            digest = hashlib.sha256()
            try:
                with files.open_read(self.path, start=start) as stream:
                    hashed = _Hashed(stream, digest)
                    for offset, data in records.read_frames(hashed, offset=start):  # type: ignore[arg-type]
                        self.offset = offset + len(data) + records.FRAME_BYTES
                        try:
                            packed = _packed(data, offset)
                        except DamagedRecord as damage:
                            self._pass_over(damage)
                            continue
                        yield offset, packed
                break
            except DamagedRecord as damage:
                self._pass_over(damage)
                following = self._next_record(damage.offset + 1)
                if following is None:
                    break
                start = following
        # The digest of a single pass is the file's own.
        self.sha256 = files.sha256(self.path) if self.damaged else digest.hexdigest()

    def _pass_over(self, damage: DamagedRecord) -> None:
        if not self.skip:
            raise Failure(
                f"damaged record: {damage}",
                where=f"{self.path}, byte {damage.offset}",
                fix="restore the file or encode the text anew; --set on_corrupt=skip goes on without such records",
            )
        self.damaged += 1

    def _next_record(self, start: int) -> int | None:
        """Where the next sound record begins at or behind byte `start`.

        A record's length takes 8 bytes of which the upper 4 are zero; only such places are looked at, and one is believed when
        both of its checksums are right. So no index is needed, which might be damaged as well.
        """
        tail, position = b"", start
        with files.open_read(self.path, start=start) as stream:
            while piece := stream.read(PIECE):
                raw = np.frombuffer(tail + piece, np.uint8)
                zero = raw == 0
                found = np.flatnonzero(zero[:-3] & zero[1:-2] & zero[2:-1] & zero[3:]) if len(raw) > 3 else zero[:0]
                for at in found:
                    candidate = position - len(tail) + int(at) - 4
                    if candidate >= start and self._is_sound(candidate):
                        return candidate
                position += len(piece)
                # Four zeros may lie across the border of two pieces.
                tail = (tail + piece)[-3:]
        return None

    def _is_sound(self, offset: int) -> bool:
        try:
            with files.open_read(self.path, start=offset) as stream:
                return next(records.read_frames(stream), None) is not None
        except DamagedRecord:
            return False

    def _decoded(self, batch: list[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        """All varints of a batch in a handful of array operations; document by document takes four times as long."""
        joined = b"".join(packed for _, packed in batch)
        raw = np.frombuffer(joined + bytes(WIDEST), np.uint8)
        ends = np.flatnonzero(raw[: len(joined)] < 0x80)
        starts = np.concatenate([[0], ends[:-1] + 1])
        extra = ends - starts  # bytes of each number behind its first
        widest = int(extra.max())
        if widest >= WIDEST:
            self._refuse(batch)
        ids = (raw[starts] & 0x7F).astype(np.uint32)
        for digit in range(1, widest + 1):
            ids += ((raw[starts + digit] & 0x7F) * (extra >= digit)).astype(np.uint32) << np.uint32(7 * digit)
        if int(ids.max()) >= self.n_vocab:
            self._refuse(batch)
        borders = np.cumsum([0] + [len(packed) for _, packed in batch])
        return ids, np.diff(np.searchsorted(ends, borders)).astype(np.int64)

    def _refuse(self, batch: list[tuple[int, bytes]]) -> None:
        """Name the first id of a batch that is outside the vocabulary; that is no damage, so it is never passed over."""
        for offset, packed in batch:
            ids = records._unpack(packed)
            wrong = np.flatnonzero((ids < 0) | (ids >= self.n_vocab))
            if len(wrong):
                raise Failure(
                    f"token {wrong[0]} of a document is id {ids[wrong[0]]}, but the vocabulary is 0 to {self.n_vocab - 1}",
                    where=f"{self.path}, byte {offset}",
                    fix="set n_vocab and the tokenizer to those that this data was encoded with, or encode it anew",
                )
        raise Failure(
            "this shard holds ids in a form that no writer of TFRecords gives them",
            where=f"{self.path}, byte {batch[0][0]} and behind it",
            fix="encode the text anew",
        )


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO, digest: hashlib._Hash) -> None:
        self._stream, self._digest = stream, digest

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data


def _packed(data: bytes, offset: int) -> bytes:
    """The varints of one Example's ids, as they stand; the ids themselves are decoded later, many documents at once."""
    try:
        feature = records._features(data)["text"]
        lists = [value for number, _, value in records._fields(feature) if number == 3 and isinstance(value, bytes)]
        parts = [
            value if isinstance(value, bytes) else records._varint(value)  # some writers leave ids unpacked
            for number, _, value in records._fields(lists[-1] if lists else b"")
            if number == 1
        ]
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
    except KeyError:
        raise DamagedRecord(offset, 'record without a "text" feature') from None
    except (IndexError, ValueError) as error:
        raise DamagedRecord(offset, f"record is not a tf.train.Example ({error})") from None
    if not lists:
        raise DamagedRecord(offset, "record whose text is not an int64_list")
    if packed and packed[-1] >= 0x80:
        raise DamagedRecord(offset, "record whose ids end inside a number")
    return packed
