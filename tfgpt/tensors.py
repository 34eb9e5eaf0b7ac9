"""Named arrays as one safetensors file: written piece by piece from the arrays themselves, read without a second copy.

The format is 8 bytes of length, a JSON header, and the raw bytes of all arrays. It is written here rather than by the
safetensors package because a checkpoint's sha256 is taken of the same pieces on their way to the disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

PIECE = 16 << 20

TYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TYPES.items()}


@dataclass(frozen=True)
class Later:
    """An array of float32 that is made when its turn comes to be written, so that only one exists at a time."""

    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]
    dtype = np.dtype("<f4")

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return 4 * math.prod(self.shape)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        found = np.asarray(self.make(), dtype or self.dtype)
        assert found.shape == self.shape, (found.shape, self.shape)
        return found


Arrays = Mapping[str, np.ndarray | Later]


def header(arrays: Arrays) -> bytes:
    """The head of the file that holds `arrays`; a ValueError for a type that safetensors does not know.

    >>> header({"a": np.zeros(2, "float32")})[8:]
    b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   '
    """
    # Other programs (transformers among them) refuse a file that does not say in whose conventions it is written.
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in _order(arrays):
        array = arrays[name]
        kind = NAMES.get(array.dtype.newbyteorder("<"))
        if kind is None or name == "__metadata__":
            raise ValueError(f"{name!r} of type {array.dtype} cannot be kept in a safetensors file")
        start, end = end, end + array.nbytes
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pieces(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The bytes of the file, in pieces of at most 16 MiB; an array that lies in order in memory is never copied."""
    yield header(arrays)
    for name in _order(arrays):
        array = arrays[name]
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        for start in range(0, len(flat), PIECE):
            yield flat[start : start + PIECE].data


def size(arrays: Arrays) -> int:
    """Bytes of the file that holds `arrays`."""
    return len(header(arrays)) + sum(array.nbytes for array in arrays.values())


def parse(content: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a file whose bytes (uint8) are in memory, as views into them; ValueError if it is not such a file."""
    try:
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        if len(content) < 8 or start > len(content):
            raise ValueError("its head is longer than the file")
        table = json.loads(content[8:start].tobytes())
        table.pop("__metadata__", None)
        return {name: _view(content[start:], entry) for name, entry in table.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def on_disk(path: str) -> dict[str, Later]:
    """The arrays of a file on this machine as they are asked for, each read then and held by nobody here; float32."""
    with open(path, "rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        table = json.loads(stream.read(start - 8))
    table.pop("__metadata__", None)

    def later(shape: list[int], dtype: str, data_offsets: list[int]) -> Later:
        how = {"dtype": TYPES[dtype], "count": math.prod(shape), "offset": start + data_offsets[0]}
        return Later(tuple(shape), lambda: np.fromfile(path, **how).reshape(shape).astype(np.float32, copy=False))

    return {name: later(**entry) for name, entry in table.items()}


def _view(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(data):
        raise ValueError("an array lies outside of the file")
    array: np.ndarray = data[first:last].view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    # Other writers may put eight-byte numbers at odd places, which some kernels do not like.
    return array if array.flags.aligned else array.copy()


def _order(arrays: Arrays) -> list[str]:
    """Wide types first, so that every array starts at a multiple of its own width."""
    return sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
