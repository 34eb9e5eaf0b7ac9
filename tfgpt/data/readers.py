"""Raw documents of a unit: bytes as they lie in the file, with the place they came from. Nothing is decoded here."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import zstandard

from tfgpt import files
from tfgpt.data.sources import PIECE, Source, Unit, identify
from tfgpt.errors import UserError

MAX_DOCUMENT = 64 << 20  # bytes: a single line or cell beyond this is reported, not read into memory
TEXT_SEPARATOR = np.array([27, 91, 437, 1659, 5239, 91, 29])  # "<|endoftext|>" typed out, as encode.py joined files
GPT2_END_OF_TEXT = 50256


@dataclass(frozen=True)
class Raw:
    """One document before decoding. `problem` names what is wrong with it when it could not even be read."""

    kind: str  # "text" | "json" | "chat" | "tokens"
    data: bytes | str | np.ndarray
    where: str  # path, byte offset or member, for reports
    problem: str = ""
    split: str = ""  # "train" or "eval" where the source says so itself

    @property
    def size(self) -> int:
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)


@dataclass
class Meter:
    """Counts the bytes that were read from the disk, for a progress bar over compressed files."""

    bytes: int = 0


def read(unit: Unit, *, key: str = "text", meter: Meter | None = None) -> Iterator[Raw]:
    """Every raw document of `unit`, in order; a file that cannot be read becomes one `Raw` with its problem."""
    if unit.kind == "range":
        yield from _range(unit.sources[0], unit.start, unit.end)
        return
    for source in unit.sources:
        try:
            yield from _whole(source, key, meter)
        except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            yield Raw("text", b"", source.path, problem=f"unreadable ({error})")


def lines(stream: BinaryIO, *, offset: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Offset and content of each line; None in place of a line longer than `MAX_DOCUMENT`, which is passed over."""
    while line := stream.readline(MAX_DOCUMENT + 1):
        start = offset
        offset += len(line)
        if len(line) > MAX_DOCUMENT:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_DOCUMENT)
                offset += len(line)
            yield start, None
        else:
            yield start, line


def decompressed(stream: BinaryIO, compression: str) -> BinaryIO:
    """`stream` through its decompressor."""
    if compression == "gz":
        return gzip.open(stream)  # type: ignore[return-value]
    if compression == "xz":
        return lzma.open(stream)  # type: ignore[return-value]
    if compression == "zst":
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(stream, read_across_frames=True)
        return io.BufferedReader(reader, 1 << 20)  # type: ignore[arg-type,return-value]
    return stream


class _Metered(io.RawIOBase):
    """A stream that tells a meter how far it is."""

    def __init__(self, stream: BinaryIO, meter: Meter) -> None:
        self._stream, self._meter = stream, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._meter.bytes += len(data)
        return len(data)


def _whole(source: Source, key: str, meter: Meter | None) -> Iterator[Raw]:
    with files.open_read(source.path) as plain:
        if source.format == "parquet":
            yield from _parquet(plain, source.path, key)
        elif source.format == "npz":
            yield from _npz(plain, source.path)
        else:
            counted = io.BufferedReader(_Metered(plain, meter), 1 << 18) if meter else plain
            stream = decompressed(counted, source.compression)  # type: ignore[arg-type]
            if source.format == "tar":
                yield from _tar(stream, source.path, key)
            else:
                yield from _stream(stream, source.format, source.path, key, None if source.compression else source.size)


def _stream(stream: BinaryIO, format: str, path: str, key: str, size: int | None) -> Iterator[Raw]:
    """Documents of an open file of any streamable format."""
    if format == "jsonl":
        yield from _json_lines(stream, path)
    elif format == "json":
        yield from _json(stream, path)
    elif format == "csv":
        yield from _csv(stream, path, key)
    else:
        yield from _pieces(stream, path, kind="chat" if format == "chat" else "text", size=size)


def _range(source: Source, start: int, end: int) -> Iterator[Raw]:
    """The part of a large file that begins in [start, end): whole lines, or whole documents of token ids."""
    if source.format == "bin":
        yield from _token_range(source, start, end)
        return
    cut = source.format != "jsonl"
    begin = _line_start(source, start, cut=cut)
    finish = _line_start(source, end, cut=cut)
    with files.open_read(source.path, start=begin) as stream:
        if source.format == "jsonl":
            yield from _json_lines(stream, source.path, offset=begin, finish=finish)
        elif finish > begin:
            yield Raw(source.format, stream.read(finish - begin), f"{source.path}, byte {begin}")


def _line_start(source: Source, position: int, *, cut: bool) -> int:
    """Where the first line at or behind `position` begins; both sides of a border find the same place."""
    if position == 0 or position >= source.size:
        return min(position, source.size)
    with files.open_read(source.path, start=position) as stream:
        if cut:
            return position + len(_to_line_end(stream)[0])
        while line := stream.readline(1 << 20):
            position += len(line)
            if line.endswith(b"\n"):
                break
    return position


def _to_line_end(stream: BinaryIO) -> tuple[bytes, bytes]:
    """The rest of the present line, and bytes that were read too far.

    A text without line ends is cut after 1 MB at the beginning of a character, so that memory stays bounded.
    """
    line = stream.readline(1 << 20)
    if line.endswith(b"\n") or len(line) < 1 << 20:
        return line, b""
    ahead = stream.read(3)
    while ahead and ahead[0] & 0xC0 == 0x80:
        line, ahead = line + ahead[:1], ahead[1:]
    return line, ahead


def _pieces(stream: BinaryIO, path: str, *, kind: str, size: int | None) -> Iterator[Raw]:
    """A text of any length: one document, or one for every `PIECE` bytes, cut at a line end.

    size  its bytes where they are known: to ask for 8 MB takes longer than to read a web page
    """
    if size is not None and size < PIECE:
        yield Raw(kind, stream.read(size), path)
        return
    offset, ahead = 0, b""
    while True:
        data = ahead + stream.read(PIECE - len(ahead))
        if len(data) < PIECE:
            if data or not offset:
                yield Raw(kind, data, f"{path}, byte {offset}" if offset else path)
            return
        line, ahead = _to_line_end(stream)
        yield Raw(kind, data + line, f"{path}, byte {offset}")
        offset += len(data) + len(line)


def _json_lines(stream: BinaryIO, path: str, *, offset: int = 0, finish: int | None = None) -> Iterator[Raw]:
    for start, line in lines(stream, offset=offset):
        if finish is not None and start >= finish:
            return
        where = f"{path}, byte {start}"
        if line is None:
            yield Raw("json", b"", where, problem="line longer than 64 MB")
        elif line.strip():
            yield Raw("json", line, where)


def _json(stream: BinaryIO, path: str) -> Iterator[Raw]:
    """A .json file: one object, a list of them, or in truth one object a line."""
    data = stream.read(PIECE + 1)
    if len(data) <= PIECE:
        try:
            whole = json.loads(data)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, dict):
            whole = [whole]
        if isinstance(whole, list):
            for number, item in enumerate(whole):
                yield Raw("json", json.dumps(item).encode(), f"{path}, item {number}")
            return
    # Too large to be taken as a whole, or not one value: line by line, which names what is broken.
    yield from _json_lines(io.BufferedReader(_Chained(data, stream)), path)  # type: ignore[arg-type]


class _Chained(io.RawIOBase):
    """Bytes that were read already, then the stream that they came from."""

    def __init__(self, first: bytes, rest: BinaryIO) -> None:
        self._first, self._rest = io.BytesIO(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._first.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _csv(stream: BinaryIO, path: str, key: str) -> Iterator[Raw]:
    csv.field_size_limit(MAX_DOCUMENT)
    # surrogateescape keeps undecodable bytes recognisable, so that only their own row is dropped later.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter="\t" if ".tsv" in path.lower() else ",")
    header = next(rows, [])
    if key not in header:
        raise UserError(
            f'no column "{key}"',
            where=f"{path}, line 1",
            nearest=", ".join(f'"{name}"' for name in header[:8]),
            fix="name the column that holds the text with --key",
        )
    column = header.index(key)
    while True:
        where = f"{path}, line {rows.line_num + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Raw("text", b"", where, problem=f"broken row ({error})")
            continue
        if len(row) <= column:
            yield Raw("text", b"", where, problem=f"row of {len(row)} cells, the text is in cell {column + 1}")
        elif row:
            yield Raw("text", row[column].encode("utf-8", "surrogateescape"), where)


def _parquet(stream: BinaryIO, path: str, key: str) -> Iterator[Raw]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError("reading .parquet needs pyarrow", where=path, fix='pip install "tfgpt[parquet]"') from None
    table = parquet.ParquetFile(stream)
    names = table.schema_arrow.names
    if key not in names:
        listed = ", ".join(f'"{name}"' for name in names[:8])
        raise UserError(f'no column "{key}"', where=path, nearest=listed, fix="name the column with --key")
    row = 0
    for batch in table.iter_batches(batch_size=256, columns=[key]):
        for value in batch.column(0).to_pylist():
            row += 1
            if isinstance(value, (str, bytes)):
                yield Raw("text", value, f"{path}, row {row}")
            else:
                yield Raw("text", b"", f"{path}, row {row}", problem="cell is not text")


def _tar(stream: BinaryIO, path: str, key: str) -> Iterator[Raw]:
    """Members one by one, in the archive's order, never written anywhere; each is read by its own suffix."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            known = identify(member.name)
            if not member.isfile() or known is None or known[0] in ("tar", "bin", "npz", "parquet"):
                continue
            plain = archive.extractfile(member)
            if plain is not None:
                inner = decompressed(plain, known[1])  # type: ignore[arg-type]
                size = None if known[1] else member.size
                yield from _stream(inner, known[0], f"{path}::{member.name}", key, size)


def _token_range(source: Source, start: int, end: int) -> Iterator[Raw]:
    """nanoGPT's train.bin and val.bin: uint16 ids; a document ends behind each 50256, wherever a range was cut."""
    name = source.path.rsplit("/", 1)[-1]
    split = "eval" if name.startswith("val") else "train"
    if source.size % 2:
        raise UserError(
            f"{source.size} bytes are no whole number of uint16 ids", where=source.path, fix="make the file anew"
        )

    def boundary(position: int) -> int:
        """First document that begins at or behind `position` (a plain cut where none ends within 2 MB)."""
        if position in (0, source.size):
            return position
        with files.open_read(source.path, start=position - 2) as stream:
            near = np.frombuffer(stream.read(2 << 20), "<u2")
        ends = np.flatnonzero(near == GPT2_END_OF_TEXT)
        return position + 2 * int(ends[0]) if len(ends) else position

    begin, finish = boundary(start), boundary(end)
    with files.open_read(source.path, start=begin) as stream:
        ids = np.frombuffer(stream.read(max(finish - begin, 0)), "<u2")
    first = 0
    for last in [*np.flatnonzero(ids == GPT2_END_OF_TEXT).tolist(), len(ids)]:
        if last > first:
            yield Raw(
                "tokens", ids[first:last].astype(np.uint32), f"{source.path}, byte {begin + 2 * first}", split=split
            )
        first = last + 1


def _npz(stream: BinaryIO, path: str) -> Iterator[Raw]:
    """encode.py's archives: each array holds files joined by "<|endoftext|>" typed out, or by the id itself."""
    with np.load(stream, allow_pickle=False) as archive:
        for name in archive.files:
            ids = archive[name]
            where = f"{path}, array {name}"
            if (
                ids.ndim != 1
                or not np.issubdtype(ids.dtype, np.integer)
                or (ids.size and (ids.min() < 0 or ids.max() >= 1 << 28))
            ):
                yield Raw("tokens", b"", where, problem="not a list of token ids")
                continue
            start = 0
            for cut, width in [*_separators(ids), (len(ids), 0)]:
                if cut > start:
                    yield Raw("tokens", ids[start:cut].astype(np.uint32), f"{where}, id {start}")
                start = max(start, cut + width)


def _separators(ids: np.ndarray) -> list[tuple[int, int]]:
    """Position and width of every document separator in `ids`."""
    found = [(int(at), 1) for at in np.flatnonzero(ids == GPT2_END_OF_TEXT)]
    width = len(TEXT_SEPARATOR)
    if len(ids) >= width:
        windows = np.lib.stride_tricks.sliding_window_view(ids, width)
        typed = np.flatnonzero(ids[: len(windows)] == TEXT_SEPARATOR[0])
        found += [(int(at), width) for at in typed[(windows[typed] == TEXT_SEPARATOR).all(axis=1)]]
    return sorted(found)
