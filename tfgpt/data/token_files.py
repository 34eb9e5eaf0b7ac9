"""Files that hold token ids: nanoGPT's train.bin and val.bin, and encode.py's .npz archives."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from tfgpt import files
from tfgpt.data.raw import Raw, unread
from tfgpt.data.sources import Source
from tfgpt.data.streams import UNREADABLE
from tfgpt.errors import UserError

TEXT_SEPARATOR = np.array([27, 91, 437, 1659, 5239, 91, 29])  # "<|endoftext|>" typed out, as encode.py joined files
GPT2_END_OF_TEXT = 50256
LONGEST = 4 << 20  # ids: a longer document of a stream is cut, so that memory stays bounded
CHUNK = 1 << 20  # ids


def read_bin_range(source: Source, start: int, end: int) -> Iterator[Raw]:
    """The uint16 ids of [start, end); a document ends behind each 50256, wherever a range was cut."""
    _require_even(source.size, source.path)

    def boundary(position: int) -> int:
        """First document that begins at or behind `position` (a plain cut where none ends within 2 MB)."""
        if position in (0, source.size):
            return position
        with files.open_read(source.path, start=position - 2) as stream:
            near = np.frombuffer(_even(stream.read(2 << 20)), "<u2")
        ends = np.flatnonzero(near == GPT2_END_OF_TEXT)
        return position + 2 * int(ends[0]) if len(ends) else position

    begin, finish = boundary(start), boundary(end)
    with files.open_read(source.path, start=begin) as stream:
        ids = np.frombuffer(_even(stream.read(max(finish - begin, 0))), "<u2")
    for at, document in _documents([ids], longest=len(ids) + 1):
        yield Raw("tokens", document, f"{source.path}, byte {begin + 2 * at}", split=_split(source.path))


def read_bin(stream: BinaryIO, path: str) -> Iterator[Raw]:
    """The same from front to back, for a stream that cannot be cut into ranges."""
    size = 0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal size
        while data := stream.read(2 * CHUNK):
            size += len(data)
            yield np.frombuffer(_even(data), "<u2")

    for at, document in _documents(chunks(), longest=LONGEST):
        yield Raw("tokens", document, f"{path}, unpacked byte {2 * at}", split=_split(path))
    _require_even(size, path)


def read_npz(stream: BinaryIO, path: str) -> Iterator[Raw]:
    """Each array holds files joined by "<|endoftext|>" typed out, or by the id itself; nothing is unpickled."""
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            where = f"{path}, array {entry.filename.removesuffix('.npy')}"
            try:
                with archive.open(entry) as member:
                    for at, document in _documents(_array(member), longest=LONGEST, typed=True):  # type: ignore[arg-type]
                        yield Raw("tokens", document, f"{where}, id {at}")
            except _NoIds:
                yield Raw("tokens", b"", where, problem="not a list of token ids")
            except (*UNREADABLE, RuntimeError) as error:  # an unknown compression, a password
                yield unread(where, error)


class _NoIds(Exception):
    """An array of something else."""


def _array(member: BinaryIO) -> Iterator[np.ndarray]:
    """The ids of an .npy file in chunks."""
    try:
        # Later versions of the format only exist for headers of tables.
        if np.lib.format.read_magic(member) != (1, 0):
            raise _NoIds
        shape, _, kind = np.lib.format.read_array_header_1_0(member)
    except ValueError as error:
        raise _NoIds from error
    if len(shape) != 1 or not np.issubdtype(kind, np.integer):
        raise _NoIds
    left = shape[0]
    while left > 0:
        data = member.read(min(left, CHUNK) * kind.itemsize)
        if len(data) < min(left, CHUNK) * kind.itemsize:
            raise EOFError("the array is shorter than its header says")
        ids = np.frombuffer(data, kind)
        if ids.min() < 0 or ids.max() >= 1 << 28:
            raise _NoIds
        yield ids.astype(np.uint32)
        left -= len(ids)
    member.read(1)  # the archive's sum is checked when the end is seen


def _documents(chunks: Iterable[np.ndarray], *, longest: int, typed: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    """Position and ids of every document of a stream that comes in chunks; the chunks' borders do not matter.

    typed  whether a typed-out "<|endoftext|>" ends a document too
    """
    rest, at = np.zeros(0, np.uint32), 0
    for chunk in chunks:
        ids = np.concatenate([rest, chunk.astype(np.uint32)])
        start = 0
        for cut, width in _separators(ids, typed):
            yield from _slices(ids[start:cut], at + start, longest)
            start = cut + width
        rest, at = ids[start:], at + start
        # The last ids may be the beginning of a separator.
        while len(rest) >= longest + len(TEXT_SEPARATOR):
            yield at, rest[:longest]
            rest, at = rest[longest:], at + longest
    yield from _slices(rest, at, longest)


def _slices(ids: np.ndarray, at: int, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(ids), longest):
        yield at + first, ids[first : first + longest]


def _separators(ids: np.ndarray, typed: bool) -> list[tuple[int, int]]:
    """Position and width of every document separator in `ids`."""
    found = [(int(at), 1) for at in np.flatnonzero(ids == GPT2_END_OF_TEXT)]
    width = len(TEXT_SEPARATOR)
    if typed and len(ids) >= width:
        windows = np.lib.stride_tricks.sliding_window_view(ids, width)
        first = np.flatnonzero(ids[: len(windows)] == TEXT_SEPARATOR[0])
        found += [(int(at), width) for at in first[(windows[first] == TEXT_SEPARATOR).all(axis=1)]]
    return sorted(found)


def _split(path: str) -> str:
    return "eval" if path.rsplit("/", 1)[-1].startswith("val") else "train"


def _even(data: bytes) -> bytes:
    return data[: len(data) // 2 * 2]


def _require_even(size: int, path: str) -> None:
    if size % 2:
        raise UserError(f"{size} bytes are no whole number of uint16 ids", where=path, fix="make the file anew")
