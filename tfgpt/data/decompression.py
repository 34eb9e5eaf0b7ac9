"""Compressed files as plain streams, in bounded memory; damage never passes for the end of a file."""

from __future__ import annotations

import io
import lzma
import zlib
from typing import Any, BinaryIO

import zstandard

from tfgpt.data.streams import BUFFER, Made, forwarded

MAGIC = {"gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00"}
MOST_MEMORY = 2 << 30  # bytes: a decompressor's window is memory that the file asks for; `zstd --long=31` needs this
CUT = "the compressed data ends before its end mark"


class Garbage(Exception):
    """Bytes behind the end of the compressed data, which itself was whole."""


def decompressed(stream: BinaryIO, compression: str) -> BinaryIO:
    """`stream` through its decompressor; a cut file raises EOFError, and `finish` tells of garbage behind the end."""
    if not compression:
        return stream
    made = _Frames(stream) if compression == "zst" else _Members(stream, compression)
    return io.BufferedReader(made, BUFFER)  # type: ignore[return-value]


def finish(stream: BinaryIO) -> None:
    """Read `stream` to its end, so that its sums are checked; raises Garbage where more lies behind the end."""
    while stream.read(1 << 20):
        pass
    if getattr(getattr(stream, "raw", None), "garbage", False):
        raise Garbage


class _Inflater:
    """zlib with the face of lzma's decompressor."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, most)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail


class _Members(Made):
    """gzip or xz: one compressed stream after another, with zeros allowed behind each."""

    def __init__(self, stream: BinaryIO, compression: str) -> None:
        super().__init__(stream)
        self._compression = compression
        self._inner: Any = self._fresh()

    def _fresh(self) -> Any:
        return _Inflater() if self._compression == "gz" else lzma.LZMADecompressor(memlimit=MOST_MEMORY)

    def _make(self) -> bytes:
        magic = MAGIC[self._compression]
        data = b""
        while not self.garbage:
            hungry = self._inner.needs_input
            if self._inner.eof:
                data = _behind_padding(self._stream, self._inner.unused_data, len(magic))
                if not data.startswith(magic):
                    self.garbage = bool(data)
                    return b""
                self._inner = self._fresh()
            elif hungry:
                data = self._stream.read(1 << 16)
            piece: bytes = self._inner.decompress(data, BUFFER)
            if piece:
                return piece
            if hungry and not data and not self._inner.eof:
                raise EOFError(CUT)
            data = b""
        return b""


class _Frames(Made):
    """Zstandard. Its own reader takes any end of the file for the end, so the frames are followed here."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._blocks = _Blocks(forwarded(stream))
        self._reader = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).stream_reader(
            self._blocks, read_across_frames=True, closefd=False
        )

    def _make(self) -> bytes:
        # One block at a time, so that all that lies before a damaged one is still handed out.
        data: bytes = self._reader.read1(BUFFER)
        self.garbage = self._blocks.garbage
        if not data and (self._blocks.cut or self._blocks.state != "between"):
            raise EOFError(CUT)
        return data


class _Blocks:
    """The frames of a .zst file in parts, none longer than a block; knows whether the last one was whole."""

    FRAME = b"\x28\xb5\x2f\xfd"
    LARGEST = 1 << 17

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._summed = False  # whether the present frame ends with a sum
        self.state = "first"  # then "block", "sum" and "between" frames
        self.cut = False
        self.garbage = False

    def read(self, size: int = -1) -> bytes:
        """The next part; this is what the decompressor calls."""
        if self.cut or self.garbage:
            return b""
        if self.state == "block":
            return self._block()
        if self.state == "sum":
            self.state = "between"
            return self._take(4)
        return self._header()

    def _take(self, amount: int) -> bytes:
        data = self._stream.read(amount)
        self.cut |= len(data) < amount
        return data

    def _header(self) -> bytes:
        """The beginning of the next frame; frames that carry no content are passed over."""
        while True:
            magic = _behind_padding(self._stream, b"", 4) if self.state == "between" else self._take(4)
            if magic == self.FRAME:
                break
            if magic[1:] != b"\x2a\x4d\x18" or magic[0] >> 4 != 5:
                self.garbage = bool(magic) and self.state == "between"
                return magic if self.state == "first" else b""
            self.state = "between"
            left = int.from_bytes(self._take(4), "little")
            while left and not self.cut:
                left -= len(self._take(min(left, BUFFER)))
            if self.cut:
                return b""
        flags = self._take(1)
        value = flags[0] if flags else 0
        single = value >> 5 & 1
        length = (1 - single) + (0, 1, 2, 4)[value & 3] + (single, 2, 4, 8)[value >> 6]
        self._summed, self.state = bool(value & 4), "block"
        return magic + flags + self._take(length)

    def _block(self) -> bytes:
        head = self._take(3)
        value = int.from_bytes(head, "little")
        repeated = value >> 1 & 3 == 1
        if value & 1:
            self.state = "sum" if self._summed else "between"
        return head + self._take(1 if repeated else min(value >> 3, self.LARGEST))


def _behind_padding(stream: BinaryIO, data: bytes, wanted: int) -> bytes:
    """What follows `data` behind any zeros: at least `wanted` bytes unless the file ends there."""
    data = data.lstrip(b"\0")
    while len(data) < wanted and (more := stream.read(wanted - len(data))):
        data = (data + more).lstrip(b"\0")
    return data
