"""Files as streams that can be counted, looked into, re-encoded and spooled, all in bounded memory."""

from __future__ import annotations

import codecs
import functools
import io
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from tfgpt.errors import Failure, UserError

MOST_SPOOLED = 4 << 30  # bytes: a table that has to be unpacked to disk before it can be read
BUFFER = 1 << 18

# What the disk, the decompressors and the archive readers raise over damaged bytes.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass
class Meter:
    """Counts the bytes that were read from the disk, for a progress bar over compressed files."""

    bytes: int = 0


class Forwarded(io.RawIOBase):
    """Bytes that were read already, then the stream they came from; tells a meter, and never closes that stream."""

    def __init__(self, stream: BinaryIO, *, first: bytes = b"", meter: Meter | None = None) -> None:
        self._stream, self._first, self._meter = stream, io.BytesIO(first), meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._first.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(data)] = data
        if self._meter:
            self._meter.bytes += len(data)
        return len(data)


def forwarded(stream: BinaryIO, *, first: bytes = b"", meter: Meter | None = None) -> BinaryIO:
    """A buffered stream over `stream`."""
    return io.BufferedReader(Forwarded(stream, first=first, meter=meter), BUFFER)  # type: ignore[return-value]


def beginning(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The first four bytes, and a stream that still has them."""
    head = stream.peek(4)[:4] if isinstance(stream, io.BufferedReader) else b""
    if len(head) == 4:
        return head, stream
    head = stream.read(4)
    return head, forwarded(stream, first=head)


def wide(head: bytes, encoding: str) -> str:
    """The codec of a text in which a line does not end with the byte 0x0A alone, or an empty string.

    >>> wide(b"\\xff\\xfea\\x00", "utf-8"), wide(b"text", "utf-16"), wide(b"text", "latin-1")
    ('utf-16', 'utf-16-le', '')
    """
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return _without_mark(encoding)


@functools.lru_cache
def _without_mark(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        newline = "\n".encode(name)
    except LookupError:
        raise UserError(
            f'there is no text encoding "{encoding}"', nearest='"utf-8", "latin-1", "utf-16"', fix="choose one of those"
        ) from None
    if name in ("utf-16", "utf-32"):
        return f"{name}-le"  # the codec alone would refuse a text without a byte order mark
    return "" if name in ("utf-8", "utf-8-sig") or newline == b"\n" else name


def transcoded(stream: BinaryIO, codec: str) -> BinaryIO:
    """`stream`, which is text in `codec`, as UTF-8."""
    return io.BufferedReader(_Transcoded(stream, codec), BUFFER)  # type: ignore[return-value]


@contextmanager
def seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """`stream` itself if one can go back in it, else a temporary file with its content."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as spool:
        size = 0
        while piece := stream.read(1 << 20):
            size += len(piece)
            if size > MOST_SPOOLED:
                raise ValueError(f"unpacks to more than {MOST_SPOOLED >> 20} MB")
            try:
                spool.write(piece)
            except OSError as error:
                # What is kept of the input must not hang on how full a disk happens to be.
                raise Failure(
                    f"no room to unpack a table: {error.strerror}",
                    where=tempfile.gettempdir(),
                    fix="free some space there, or name a folder on a larger disk in TMPDIR",
                ) from error
        spool.seek(0)
        yield spool  # type: ignore[misc]


class Made(io.RawIOBase):
    """A stream whose bytes are made piece by piece; what failed once fails again, and does not go on in between."""

    garbage = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ready = memoryview(b"")
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready:
            if self._error:
                raise self._error
            try:
                self._ready = memoryview(self._make())
            except Exception as error:
                self._error = error
                raise
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _make(self) -> bytes:
        """Some more bytes; none mean the end."""
        raise EOFError


class _Transcoded(Made):
    def __init__(self, stream: BinaryIO, codec: str) -> None:
        super().__init__(stream)
        self._decoder = codecs.getincrementaldecoder(codec)()

    def _make(self) -> bytes:
        data, text = b"more", ""
        while data and not text:
            data = self._stream.read(1 << 16)
            text = self._decoder.decode(data, final=not data)
        return text.encode("utf-8")
