"""Raw documents of a unit: as they lie in the file, with the place they came from. Only what is no UTF-8 is decoded."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from tfgpt import files
from tfgpt.data import archives
from tfgpt.data.chats import read_chat
from tfgpt.data.decompression import Garbage, decompressed, finish
from tfgpt.data.raw import MAX_DOCUMENT, Raw, unread
from tfgpt.data.sources import PIECE, Source, Unit, identify
from tfgpt.data.streams import UNREADABLE, Meter, beginning, forwarded, seekable, transcoded, wide
from tfgpt.data.tables import read_csv, read_parquet
from tfgpt.data.token_files import GPT2_END_OF_TEXT, TEXT_SEPARATOR, read_bin, read_bin_range, read_npz
from tfgpt.errors import UserError

__all__ = [
    "GPT2_END_OF_TEXT", "MAX_DOCUMENT", "PIECE", "TEXT_SEPARATOR", "Meter", "Raw", "decompressed", "lines", "read",
]  # fmt: skip
GARBAGE = "garbage behind the end"


@dataclass(frozen=True)
class _How:
    """What has to be known of a job to read its files."""

    key: str
    encoding: str
    me: str


def read(
    unit: Unit, *, key: str = "text", encoding: str = "utf-8", me: str = "", meter: Meter | None = None
) -> Iterator[Raw]:
    """Every raw document of `unit`, in order; what cannot be read becomes a `Raw` with its problem.

    me  chats: the name under which the messages that I sent were exported

    >>> for raw in read(plan(find(["my_texts"]).sources)[0]):   # doctest: +SKIP
    ...     print(raw.where, raw.problem or raw.size)
    """
    how = _How(key, encoding, me)
    for source in unit.sources:
        try:
            yield from _range(source, unit) if unit.kind == "range" else _whole(source, how, meter)
        except Garbage:
            yield Raw("text", b"", source.path, problem=GARBAGE)
        except UserError:
            raise
        except UNREADABLE as error:
            yield unread(source.path, error)


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


def _whole(source: Source, how: _How, meter: Meter | None) -> Iterator[Raw]:
    with files.open_read(source.path) as plain:
        table = source.format in ("parquet", "npz") and not source.compression
        counted = forwarded(plain, meter=meter) if meter and not table else plain
        stream = decompressed(counted, source.compression)
        if source.format == "tar":
            yield from _tar(stream, source, how)
        else:
            yield from _stream(stream, source.format, source.path, how, None if source.compression else source.size)
            if source.compression:
                finish(stream)


def _stream(stream: BinaryIO, format: str, path: str, how: _How, size: int | None) -> Iterator[Raw]:
    """Documents of an open file of any format but tar.

    size  its bytes where they are known: to ask for 8 MB takes longer than to read a web page
    """
    if format in ("parquet", "npz"):
        with seekable(stream) as table:
            yield from read_parquet(table, path, how.key) if format == "parquet" else read_npz(table, path)
    elif format == "bin":
        yield from read_bin(stream, path)
    elif size is not None and size < PIECE and format == "text":
        data = stream.read(size)
        if len(data) < size:
            raise EOFError("the file became shorter while it was read")
        if codec := wide(data[:4], how.encoding):
            yield from _wide(io.BytesIO(data), format, path, how, codec)
        else:
            yield Raw(format, data, path)
    else:
        head, stream = beginning(stream)
        codec = wide(head, how.encoding)
        if format == "chat":
            decoded = transcoded(stream, codec) if codec else stream
            yield from read_chat(lines(decoded), path, encoding="utf-8" if codec else how.encoding, me=how.me)
        elif codec:
            yield from _wide(stream, format, path, how, codec)
        else:
            yield from _text(stream, format, path, how)


def _text(stream: BinaryIO, format: str, path: str, how: _How) -> Iterator[Raw]:
    """Documents of a file whose lines end with the byte 0x0A."""
    if format == "jsonl":
        yield from _json_lines(stream, path)
    elif format == "json":
        yield from _json(stream, path)
    elif format == "csv":
        yield from read_csv(stream, path, how.key)
    else:
        yield from _pieces(stream, path, kind=format)


def _wide(stream: BinaryIO, format: str, path: str, how: _How, codec: str) -> Iterator[Raw]:
    """Documents of a file in UTF-16 or the like, by way of UTF-8; texts come as str, JSON says by a mark what it is."""
    for raw in _text(transcoded(stream, codec), format, path, how):
        assert isinstance(raw.data, bytes)
        where = path + raw.where[len(path) :].replace(", byte", ", as UTF-8 byte")
        yield replace(
            raw, where=where, data=codecs.BOM_UTF8 + raw.data if raw.kind == "json" else raw.data.decode("utf-8")
        )


def _range(source: Source, unit: Unit) -> Iterator[Raw]:
    """The part of a large file that begins in [start, end): whole lines, or whole documents of token ids."""
    if source.format == "bin":
        yield from read_bin_range(source, unit.start, unit.end)
        return
    if files.stat(source.path).size < source.size:
        raise EOFError("the file became shorter while it was read")
    cut = source.format != "jsonl"
    begin = _line_start(source, unit.start, cut=cut)
    finish = _line_start(source, unit.end, cut=cut)
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


def _pieces(stream: BinaryIO, path: str, *, kind: str) -> Iterator[Raw]:
    """A text of any length: one document, or one for every `PIECE` bytes, cut at a line end."""
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
    yield from _json_lines(forwarded(stream, first=data), path)


def _tar(stream: BinaryIO, source: Source, how: _How) -> Iterator[Raw]:
    """Members in the archive's order, each read by its own suffix; one that is broken costs no other."""
    try:
        for member, content in archives.members(stream):
            known = identify(member.name)
            if not member.isreg() or known is None or known[0] == "tar":
                continue
            where = f"{source.path}::{member.name}"
            if content is None:
                yield Raw("text", b"", where, problem="sparse file in an archive")
            elif known[0] in ("bin", "npz"):
                yield Raw("text", b"", where, problem="token ids in an archive (unpack it first)")
            else:
                yield from _member(content, known, where, member.size, how)
        if source.compression:
            finish(stream)
    except UserError:
        raise
    except UNREADABLE as error:
        yield Raw("text", b"", source.path, problem=f"archive ends early ({str(error) or type(error).__name__})")


def _member(content: BinaryIO, known: tuple[str, str], where: str, size: int, how: _How) -> Iterator[Raw]:
    format, compression = known
    try:
        inner = decompressed(content, compression)
        yield from _stream(inner, format, where, how, None if compression else size)
        if compression:
            finish(inner)
    except Garbage:
        yield Raw("text", b"", where, problem=GARBAGE)
    except UserError:
        raise
    except UNREADABLE as error:
        yield unread(where, error)
