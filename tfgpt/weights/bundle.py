"""TensorFlow's own checkpoints: a file of bytes (model.ckpt.data-00000-of-00001) and an index of what lies where in it.

They are read by TensorFlow, one tensor at a time. They are written without it: the data file is the tensors one after the
other, and the index is a table as LevelDB has it (doc/table_format.md there), whose entries are the messages of
tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import glob
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import google_crc32c
import numpy as np

from tfgpt import files
from tfgpt.errors import UserError
from tfgpt.quiet import quiet_start
from tfgpt.weights.source import Tensor

AGAIN = "fetch it again"
MARK = "checkpoint"
PART = re.compile(r"(.+)\.(?:index|data-[0-9]{5}-of-[0-9]{5})")
PIECE = 4 << 20
BLOCK = 64  # entries, a few kilobytes
FOOTER = 48
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
HEADER = bytes([0x08, 1, 0x1A, 2, 0x08, 1])  # one data file, little-endian, version 1
FLOAT32 = 1


@dataclass(frozen=True)
class Variable:
    """One array of a checkpoint, not read yet; `dtype` is its name in numpy's words ("float32", "bfloat16", "int64")."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def read(prefix: str) -> dict[str, Variable]:
    """All variables of the checkpoint whose index is `prefix`.index; a damaged file is a UserError, here or in `read()`.

    >>> read("models/124M/model.ckpt")["model/wte"].shape              # doctest: +SKIP
    (50257, 768)
    """
    _check_index(f"{prefix}.index")
    parts = files.expand(f"{glob.escape(prefix)}.data-[0-9]*-of-[0-9][0-9][0-9][0-9][0-9]")
    if not parts:
        raise UserError("the data of the checkpoint is missing", where=f"{prefix}.data-00000-of-00001", fix=AGAIN)
    if "[" in prefix:  # it would take the path for a pattern
        raise UserError("TensorFlow cannot open a path that has [ in it", where=prefix, fix="rename the folder")
    with quiet_start():
        import tensorflow as tf
    # TensorFlow's status codes arrive as exceptions of many families: a short read, for one, is an IndexError.
    refusals: tuple[type[Exception], ...] = (tf.errors.OpError, LookupError, RuntimeError, ValueError)
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except refusals as error:
        raise _damaged(f"{prefix}.index", "TensorFlow cannot read it", error) from error
    plain = [name for name, kind in types.items() if kind.is_floating or kind.is_integer or kind.is_bool]
    needed, there = sum(math.prod(shapes[name]) * types[name].size for name in plain), sum(map(files.size, parts))
    if there < needed:
        raise _damaged(
            ", ".join(parts), f"it is cut short or a part is missing: {there:,} bytes, its index tells of {needed:,}"
        )

    def reading(name: str) -> Callable[[], np.ndarray]:
        def fetch() -> np.ndarray:
            try:
                array: np.ndarray = reader.get_tensor(name)  # compares the checksum, too
            except refusals as error:
                raise _damaged(", ".join(parts), f"{name} cannot be read from it", error) from error
            return array

        return fetch

    return {name: Variable(tuple(shapes[name]), types[name].name, reading(name)) for name in sorted(shapes)}


def stems(folder: str) -> set[str]:
    """Names of the checkpoints that lie in a folder, whole or not: {"model.ckpt-100", "model.ckpt-200"}."""
    return {match[1] for match in map(PART.fullmatch, os.listdir(folder)) if match}


def stem(path: str) -> str | None:
    """The prefix that `path` means, which is a prefix itself or one of the files; None if nothing lies there."""
    match = PART.fullmatch(os.path.basename(path))
    name = match[1] if match else os.path.basename(path).removesuffix(".meta")
    folder = os.path.dirname(path)
    return os.path.join(folder, name) if os.path.isdir(folder or ".") and name in stems(folder or ".") else None


def latest(folder: str) -> str | None:
    """Name of the checkpoint that the folder's `checkpoint` file calls the latest, without the folder it once lay in."""
    path = os.path.join(folder, MARK)
    if not os.path.isfile(path):
        return None
    with files.open_read(path) as stream:
        match = re.search(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\\n]|\\.)*)"', stream.read(1 << 20), re.MULTILINE)
    try:  # text of a protocol buffer: every byte outside of ASCII may stand as an octal number
        text = match[1].decode("unicode_escape").encode("latin-1").decode() if match else ""
    except ValueError:
        return None
    return re.split(r"[/\\]", text)[-1] or None


def write(prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001, all float32, with one tensor in memory at a time.

    >>> write("out/model.ckpt", {"model/wte": Tensor((2, 3), lambda: np.zeros((2, 3), "float32"))})  # doctest: +SKIP
    """
    entries = [(b"", HEADER)]
    at = 0
    with files.atomic_writer(f"{prefix}.data-00000-of-00001") as stream:
        # LevelDB orders names by their bytes; for names outside of ASCII that is not Python's order.
        for name in sorted(tensors, key=str.encode):
            shape = tensors[name].shape
            size, crc = _pour(np.asarray(tensors[name].read()), shape, stream)
            entries.append((name.encode(), _entry(shape, at, size, crc)))
            at += size
    # The index comes second: where there is one, the data file is whole.
    with files.atomic_writer(f"{prefix}.index") as stream:
        stream.write(_table(entries))


def _pour(array: np.ndarray, shape: tuple[int, ...], stream: IO[Any]) -> tuple[int, int]:
    """Write one array in pieces; gives the number of bytes and their checksum."""
    assert array.shape == tuple(shape), f"a tensor of {shape} was read as {array.shape}"
    flat = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8)
    crc = 0
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE].tobytes()
        crc = google_crc32c.extend(crc, piece)
        stream.write(piece)
    return len(flat), _masked(crc)


def _entry(shape: tuple[int, ...], at: int, size: int, crc: int) -> bytes:
    """A BundleEntryProto: type, shape, place in the data file, size, checksum."""
    dims = b""
    for length in shape:
        dim = b"\x08" + _varint(length)
        dims += b"\x12" + _varint(len(dim)) + dim
    head = bytes([0x08, FLOAT32, 0x12]) + _varint(len(dims)) + dims
    return head + b"\x20" + _varint(at) + b"\x28" + _varint(size) + b"\x35" + struct.pack("<I", crc)


def _table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """The whole table: blocks of entries, an empty block for statistics, a block that says where the blocks lie, the footer."""
    table = bytearray()

    def add(block: list[tuple[bytes, bytes]]) -> bytes:
        body = _block(block)
        handle = _varint(len(table)) + _varint(len(body))
        table.extend(body + b"\0" + struct.pack("<I", _masked(google_crc32c.value(body + b"\0"))))
        return handle

    blocks = [entries[start : start + BLOCK] for start in range(0, len(entries), BLOCK)]
    places = [(block[-1][0], add(block)) for block in blocks]
    footer = add([]) + add(places)
    return bytes(table) + footer.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Keys are written in full: what sharing their beginnings would save is nothing beside the weights."""
    body, starts = bytearray(), []
    for key, value in entries:
        starts.append(len(body))
        body += b"\0" + _varint(len(key)) + _varint(len(value)) + key + value
    starts = starts or [0]
    return bytes(body) + struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))


def _check_index(path: str) -> None:
    """Refuse a damaged index. TensorFlow would pass over a damaged block, and its tensors would seem never to have been."""
    if not files.exists(path):
        raise UserError("the index of the checkpoint is missing", where=path, fix=AGAIN)
    data = files.read_bytes(path)
    if len(data) < FOOTER or data[-len(MAGIC) :] != MAGIC:
        raise _damaged(path, f"it is cut short or no index at all ({len(data):,} bytes, without the right end)")
    try:
        _, at = _handle(data, len(data) - FOOTER)  # the block of statistics
        for place in _places(_checked(data, _handle(data, at)[0])):
            _checked(data, place)
    except (ValueError, IndexError, struct.error) as error:
        raise _damaged(path, "a part of it is not as it was written", error) from error


def _checked(data: bytes, place: tuple[int, int]) -> bytes:
    """The block at `place`, if its checksum is right; empty if it is compressed, which only TensorFlow can undo."""
    start, end = place[0], place[0] + place[1]
    kind, crc = struct.unpack_from("<BI", data, end)
    if _masked(google_crc32c.value(data[start : end + 1])) != crc:
        raise ValueError(f"the checksum of bytes {start} to {end} differs")
    return b"" if kind else data[start:end]


def _places(block: bytes) -> Iterator[tuple[int, int]]:
    if not block:
        return
    (count,) = struct.unpack("<I", block[-4:])
    at, end = 0, len(block) - 4 - 4 * count
    while at < end:
        _, at = _number(block, at)
        rest, at = _number(block, at)
        size, at = _number(block, at)
        yield _handle(block, at + rest)[0]
        at += rest + size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = _number(data, at)
    size, at = _number(data, at)
    return (start, size), at


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _masked(crc: int) -> int:
    """As LevelDB keeps checksums, so that a checksum over bytes that hold checksums is still a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, what: str, error: Exception | str = "") -> UserError:
    what += f" ({str(error).splitlines()[0]})" if str(error) else ""
    return UserError(f"a file of this TensorFlow checkpoint is damaged: {what}", where=path, fix=AGAIN)
