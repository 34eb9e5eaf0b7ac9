"""TFRecord files of tokenized documents: written without TensorFlow, read by any TFRecord reader.

A record is one serialized `tf.train.Example` with two features: `text` (int64_list, the token ids of one document, no
separator) and `hash` (one bytes value). The framing is TFRecord's own: length, masked CRC-32C of the length, data, masked
CRC-32C of the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import google_crc32c
import numpy as np

FRAME_BYTES = 16  # 8 length + 4 CRC before the data, 4 CRC after it
MAX_RECORD_BYTES = 1 << 30  # a length field beyond this is damage, not a document


class DamagedRecord(Exception):
    """A record that cannot be trusted, with the byte offset of its frame."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"{why} at byte {offset}")
        self.offset, self.why = offset, why


@dataclass(frozen=True)
class Document:
    """One record as it was read: token ids [tokens] int64, the content hash, and where its frame begins."""

    ids: np.ndarray
    hash: bytes
    offset: int


def encode_documents(ids: np.ndarray, lengths: Sequence[int], hashes: Sequence[bytes]) -> list[bytes]:
    """Framed records of several documents whose ids lie one after the other in `ids` (uint32).

    All ids of a batch become varints in three array operations; only the headers are made document by document.
    """
    packed, byte_counts = _varints(ids)
    records = []
    token = byte = 0
    # The number of bytes of each document: differences of a running sum at the document borders.
    running = np.concatenate([[0], np.cumsum(byte_counts, dtype=np.int64)])
    for length, digest in zip(lengths, hashes, strict=True):
        token += length
        end = int(running[token])
        records.append(frame(_example(packed[byte:end], digest)))
        byte = end
    return records


def frame(data: bytes) -> bytes:
    """TFRecord's frame around `data`."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def read_frames(stream: BinaryIO, *, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Offset and data of every record, checking both CRCs; raises `DamagedRecord` where the file stops making sense."""
    while header := stream.read(12):
        if len(header) < 12:
            raise DamagedRecord(offset, f"record header cut off after {len(header)} of 12 bytes")
        (length,) = struct.unpack("<Q", header[:8])
        if _masked_crc(header[:8]) != header[8:] or length > MAX_RECORD_BYTES:
            raise DamagedRecord(offset, "record length does not match its checksum")
        body = stream.read(length + 4)
        if len(body) < length + 4:
            raise DamagedRecord(offset, f"record cut off after {len(body)} of {length + 4} bytes")
        data = body[:-4]
        if _masked_crc(data) != body[-4:]:
            raise DamagedRecord(offset, "record data does not match its checksum")
        yield offset, data
        offset += length + FRAME_BYTES


def read_documents(stream: BinaryIO) -> Iterator[Document]:
    """Every document of a TFRecord file; `hash` is optional, as older files leave it out."""
    for offset, data in read_frames(stream):
        try:
            features = _features(data)
            ids = _int64_list(features["text"])
        except KeyError:
            raise DamagedRecord(offset, 'record without a "text" feature') from None
        except (IndexError, ValueError) as error:
            raise DamagedRecord(offset, f"record is not a tf.train.Example ({error})") from None
        yield Document(ids, _first_bytes(features.get("hash", b"")), offset)


def _example(packed: bytes, digest: bytes) -> bytes:
    """A serialized Example; written out flat, as this runs once a document and nothing in it changes but lengths."""
    ids = _varint(len(packed))
    int64_list = len(ids) + len(packed) + 1
    feature = _varint(int64_list)
    text = _varint(int64_list + len(feature) + 1)
    entry = int64_list + len(feature) + len(text) + 8  # with b"\n\x04text\x12" and the feature's tag
    hash_entry = _hash_entry(digest)
    size = _varint(entry)
    features = len(hash_entry) + 1 + len(size) + entry
    return b"".join(
        (
            b"\n",
            _varint(features),
            hash_entry,
            b"\n",
            size,
            b"\n\x04text\x12",
            text,
            b"\x1a",
            feature,
            b"\n",
            ids,
            packed,
        )
    )


def _hash_entry(digest: bytes) -> bytes:
    value = _field(1, digest)
    return _field(1, _field(1, b"hash") + _field(2, _field(1, value)))


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _digits(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The varint of each id (below 2**28) in 4 bytes, which of those count, and how many."""
    counts = (1 + (ids >= 1 << 7) + (ids >= 1 << 14) + (ids >= 1 << 21)).astype(np.uint8)
    columns = np.arange(4, dtype=np.uint32)
    used = columns < counts[:, None]  # [ids, 4]
    more = columns + 1 < counts[:, None]
    digits = (ids[:, None] >> (7 * columns) & 0x7F | more << 7).astype(np.uint8)
    return np.ascontiguousarray(digits).view(np.uint32)[:, 0], used.view(np.uint32)[:, 0], counts


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_digits` of every id of an ordinary vocabulary: to look them up is faster than to work them out."""
    return _digits(np.arange(1 << 17, dtype=np.uint32))


def _varints(ids: np.ndarray) -> tuple[bytes, np.ndarray]:
    largest = int(ids.max()) if len(ids) else 0
    if largest >= 1 << 28:
        raise ValueError(f"token id {largest} is no id of any vocabulary")
    if largest < 1 << 17:
        digits, used, counts = (column[ids] for column in _table())
    else:
        digits, used, counts = _digits(ids.astype(np.uint32))
    return digits.view(np.uint8)[used.view(np.bool_)].tobytes(), counts


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Number, wire type and value of each protocol-buffer field in `data`."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        if tag & 7 == 2:
            length, position = _read_varint(data, position)
            if position + length > len(data):
                raise ValueError("field longer than its message")
            yield tag >> 3, 2, data[position : position + length]
            position += length
        elif tag & 7 == 0:
            value, position = _read_varint(data, position)
            yield tag >> 3, 0, value
        elif tag & 7 in (1, 5):
            width = 8 if tag & 7 == 1 else 4
            yield tag >> 3, tag & 7, data[position : position + width]
            position += width
        else:
            raise ValueError(f"wire type {tag & 7}")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("endless varint")


def _features(data: bytes) -> dict[str, bytes]:
    """Feature name -> serialized Feature of one Example."""
    found: dict[str, bytes] = {}
    for number, wire, features in _fields(data):
        if (number, wire) != (1, 2):
            continue
        for _, _, entry in _fields(features):  # type: ignore[arg-type]
            parts = {number: value for number, _, value in _fields(entry)}  # type: ignore[arg-type]
            if isinstance(parts.get(1), bytes):
                found[parts[1].decode("utf-8")] = parts.get(2, b"")  # type: ignore[union-attr,assignment]
    return found


def _int64_list(feature: bytes) -> np.ndarray:
    lists = [value for number, _, value in _fields(feature) if number == 3]
    if not lists:
        raise ValueError("text is not an int64_list")
    parts = []
    for number, wire, value in _fields(lists[-1]):  # type: ignore[arg-type]
        if number == 1:
            parts.append(_unpack(value) if wire == 2 else np.array([value], np.uint64).astype(np.int64))  # type: ignore[arg-type]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _unpack(packed: bytes) -> np.ndarray:
    """Packed varints as int64, all at once."""
    raw = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        raise ValueError("packed ids end inside a number")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    widths = ends - starts + 1
    if len(widths) and widths.max() > 10:
        raise ValueError("a number of more than 10 bytes")
    values = np.zeros(len(ends), np.uint64)
    for digit in range(int(widths.max()) if len(widths) else 0):
        rows = widths > digit
        values[rows] |= (raw[starts[rows] + digit] & 0x7F).astype(np.uint64) << np.uint64(7 * digit)
    return values.astype(np.int64)


def _first_bytes(feature: bytes) -> bytes:
    for number, _, value in _fields(feature):
        if number == 1 and isinstance(value, bytes):
            return next((item for n, _, item in _fields(value) if n == 1 and isinstance(item, bytes)), b"")
    return b""
