"""Compressed files read as a stream in bounded memory, whatever their names say they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import zstandard

from tfgpt.errors import UserError

MAGIC = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2"}
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"WARC/": "a WARC file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
# A decompressor's window is memory that the file asks for; 2 GiB is what `zstd --long=31` needs.
MOST_MEMORY = 2 << 30

Advance = Callable[[int], None]


class Damage(Exception):
    """An archive that cannot be read any further; what was read before stands."""


# What the decompressors and the disk raise over damaged bytes.
UNREADABLE = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def opened(path: Path, advance: Advance) -> IO[bytes]:
    """A stream of the unpacked bytes of `path`; `advance` hears of every byte taken from the file itself.

    >>> with opened(Path("RS_2017-04.tar.xz"), lambda amount: None) as stream:   # doctest: +SKIP
    ...     header = stream.read(512)
    """
    return unpacked(_Counted(path, advance))


def unpacked(source: io.RawIOBase | io.BytesIO) -> IO[bytes]:
    """The bytes of `source` unpacked, whatever kind of compression its first bytes show; closing it closes `source`."""
    raw = io.BufferedReader(source, 1 << 18)  # type: ignore[arg-type]
    kind = compression(raw.peek(8)[:8])
    if kind == "xz":
        return io.BufferedReader(_Xz(raw), 1 << 18)
    if kind == "gz":
        return _owning(gzip.GzipFile(fileobj=raw), raw)
    if kind == "bz2":
        return _owning(bz2.BZ2File(raw), raw)
    if kind == "zst":
        unpacker = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY)
        return io.BufferedReader(unpacker.stream_reader(raw, read_across_frames=True), 1 << 18)
    return raw


def compression(head: bytes) -> str:
    """The kind of compression that the first bytes of a file show, or an empty string."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def refuse_foreign(path: Path) -> None:
    """Say at once, before anything is created, that a zip or WARC file is not what we read."""
    with open(path, "rb") as stream:
        head = stream.read(8)
    kind = next((name for magic, name in FOREIGN.items() if head.startswith(magic)), "")
    if kind:
        raise UserError(
            f"{kind} cannot be read",
            where=str(path),
            nearest="tar (also .xz, .gz, .zst, .bz2), a folder, or HTML files",
            fix="unpack it and give the folder of its .html files",
        )


def read_exactly(stream: IO[bytes], amount: int) -> bytes:
    """`amount` bytes; fewer means the stream ended."""
    pieces, left = [], amount
    while left and (piece := stream.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class _Counted(io.RawIOBase):
    """A file that tells how many of its bytes have been taken."""

    file: IO[bytes] | None = None  # as long as __init__ has not opened it: a destructor closes what it finds

    def __init__(self, path: Path, advance: Advance) -> None:
        self.file, self.advance = open(path, "rb", buffering=0), advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        amount = self.file.readinto(buffer) or 0
        self.advance(amount)
        return amount

    def close(self) -> None:
        if self.file:
            self.file.close()
        super().close()


class _Xz(io.RawIOBase):
    """lzma.LZMAFile with a bound on memory, which that class cannot be given."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source, self.unpacker = source, self._fresh()

    def _fresh(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MOST_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self.unpacker.eof:
                # Several streams one after another are one file, with padding of zeros between them.
                rest = self.unpacker.unused_data.lstrip(b"\0") or self.source.read(1 << 18).lstrip(b"\0")
                if not rest:
                    return 0
                self.unpacker = self._fresh()
            else:
                rest = self.source.read(1 << 16) if self.unpacker.needs_input else b""
                if not rest and self.unpacker.needs_input:
                    raise EOFError("the compressed data ends before its end mark")
            piece = self.unpacker.decompress(rest, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def close(self) -> None:
        self.source.close()
        super().close()


def _owning(stream: Any, raw: IO[bytes]) -> IO[bytes]:
    # gzip and bz2 leave a file object they were given open; ours has no other owner.
    close = stream.close

    def close_both() -> None:
        close()
        raw.close()

    stream.close = close_both
    return stream
