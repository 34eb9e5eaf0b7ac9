"""The container of arrays: the safetensors package reads what we write and writes what we read."""

from __future__ import annotations

import io
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize
from safetensors.numpy import load as package_load
from safetensors.numpy import save as package_save

from tfgpt import tensors


def written(arrays) -> bytes:
    return b"".join(bytes(piece) for piece in tensors.pieces(arrays))


def parsed(data: bytes):
    return tensors.parse(np.frombuffer(data, np.uint8).copy())


def arrays():
    draw = np.random.default_rng(1)
    kinds = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8".split()
    table = {kind: (draw.normal(size=(3, 5)) * 50).clip(0, 200).astype(kind) for kind in kinds}
    table["bool"] = draw.random(7) > 0.5
    table["bfloat16"] = draw.normal(size=(2, 3, 2)).astype(ml_dtypes.bfloat16)
    table["scalar"] = np.array(1e-45, "float32")
    table["empty"] = np.zeros((4, 0, 2), "float32")
    table["special"] = np.array([np.nan, np.inf, -np.inf, -0.0], "float32")
    return table


def agree(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        other = right[name]
        assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), name


def test_the_package_reads_what_we_write():
    data = written(arrays())
    assert len(data) == tensors.size(arrays())
    for name, found in deserialize(data):  # what the package's own reader for numpy, which knows no bfloat16, builds on
        array = arrays()[name]
        assert (tensors.TYPES[found["dtype"]], tuple(found["shape"])) == (array.dtype, array.shape), name
        assert bytes(found["data"]) == array.tobytes(), name
    known = {name: array for name, array in arrays().items() if name != "bfloat16"}
    agree(known, dict(package_load(written(known))))


def test_we_read_what_the_package_writes():
    agree(arrays(), parsed(package_save(arrays())))


def test_float8_round_trip():
    table = {"a": np.arange(5).astype(ml_dtypes.float8_e4m3fn), "b": np.arange(5).astype(ml_dtypes.float8_e5m2)}
    agree(table, parsed(written(table)))


def test_strides_and_byte_order_do_not_matter():
    plain = np.arange(24, dtype="float32").reshape(4, 6)
    odd = {"turned": plain.T, "stepped": plain[::2, ::3], "swapped": plain.astype(">f4")}
    agree({"turned": plain.T.copy(), "stepped": plain[::2, ::3].copy(), "swapped": plain}, parsed(written(odd)))


def test_every_array_starts_at_a_multiple_of_its_width():
    table = {
        "a": np.zeros(3, "uint8"),
        "b": np.zeros(3, "float64"),
        "c": np.zeros(3, "float16"),
        "d": np.zeros(1, "i4"),
    }
    assert all(array.flags.aligned for array in parsed(written(table)).values())
    # A foreign file with an eight-byte number at byte 1 is copied rather than handed out crooked.
    head = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}'
    head += b" " * (-len(head) % 8)
    found = parsed(len(head).to_bytes(8, "little") + head + b"\x07" + np.float64(2.5).tobytes())
    assert found["b"].flags.aligned and found["b"][0] == 2.5


@pytest.mark.parametrize("wrong", [np.array(["text"]), np.zeros(2, "complex128"), np.array([object()])])
def test_types_without_a_name_are_refused_before_writing(wrong):
    with pytest.raises(ValueError, match="'it' of type"):
        tensors.header({"it": wrong})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\xff" * 8 + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"oops",
        written({"a": np.zeros(4, "float32")})[:-1],
        written({"a": np.zeros(4, "float32")}).replace(b"F32", b"X32"),
        written({"a": np.zeros(4, "float32")}).replace(b"[4]", b"[5]"),
    ],
)
def test_garbage_is_a_value_error(data):
    with pytest.raises(ValueError, match="not a safetensors file"):
        parsed(data)


def test_writing_makes_no_second_copy():
    big = {"a": np.zeros(8 << 20, "float32"), "b": np.ones((4 << 20, 1), "float64")}

    class Sink(io.RawIOBase):
        def write(self, data) -> int:
            return len(data)

    tracemalloc.start()
    try:
        for piece in tensors.pieces(big):
            Sink().write(piece)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_arrays_are_read_from_the_disk_one_by_one(tmp_path):
    rng = np.random.default_rng(3)
    arrays = {
        "a": rng.normal(size=(3, 5)).astype("f4"),
        "b": rng.normal(size=7).astype("f2"),
        "c": np.zeros(()),
        "d": np.zeros((0, 4), "f4"),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"".join(tensors.pieces(arrays)))
    found = tensors.on_disk(str(path))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        read = found[name].make()
        assert found[name].shape == array.shape == read.shape and read.dtype == np.float32
        np.testing.assert_array_equal(read, array.astype("f4"))
        assert read.flags.owndata or read.base.flags.owndata, "no view of the whole file"
    again = b"".join(tensors.pieces({name: found[name] for name in ("a", "d")}))
    np.testing.assert_array_equal(tensors.parse(np.frombuffer(again, np.uint8))["a"], arrays["a"])
