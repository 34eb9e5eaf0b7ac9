"""Compressed streams against the compressors of the standard library and zstandard."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
import zlib

import pytest
import zstandard

from tfgpt.errors import UserError
from tfgpt.extract import streams

TEXT = b"".join(b"line %d %d\n" % (n, random.Random(n).getrandbits(60)) for n in range(30_000))
PACK = {
    "plain": bytes,
    "xz": lambda data: lzma.compress(data, preset=1),
    "gz": gzip.compress,
    "bz2": lambda data: bz2.compress(data, 1),  # in blocks of 100 kB
    "zst": zstandard.compress,
    "two xz streams": lambda data: lzma.compress(data[:1000]) + b"\0" * 8 + lzma.compress(data[1000:]),
    "two gz members": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "two zst frames": lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("kind", PACK)
def test_every_kind_is_known_by_its_bytes_and_every_byte_is_counted(kind, tmp_path):
    path = tmp_path / "no suffix to go by"
    path.write_bytes(PACK[kind](TEXT))
    counted = []
    with streams.opened(path, counted.append) as stream:
        data = b"".join(iter(lambda: stream.read(7919), b""))
    assert data == (b"" if kind == "empty" else TEXT)
    assert sum(counted) == path.stat().st_size


@pytest.mark.parametrize("kind", ["xz", "gz", "bz2"])
def test_truncated_data_gives_what_is_there_and_then_says_so(kind, tmp_path):
    path = tmp_path / "cut"
    whole = PACK[kind](TEXT)
    path.write_bytes(whole[: len(whole) * 3 // 4])
    got = b""
    with streams.opened(path, lambda amount: None) as stream, pytest.raises(streams.UNREADABLE):
        while piece := stream.read(1000):
            got += piece
    assert len(TEXT) / 3 < len(got) < len(TEXT) and TEXT.startswith(got)


def test_a_flipped_bit_in_xz_is_an_error(tmp_path):
    whole = bytearray(lzma.compress(TEXT))
    whole[len(whole) // 2] ^= 4
    path = tmp_path / "flipped.xz"
    path.write_bytes(whole)
    with streams.opened(path, lambda amount: None) as stream, pytest.raises(streams.UNREADABLE):
        streams.read_exactly(stream, 10 * len(TEXT))


def test_xz_that_asks_for_four_gigabytes_of_dictionary_is_refused():
    packed = bytearray(lzma.compress(b"x" * 100))
    size = (packed[12] + 1) * 4  # of the block header, which follows the 12 bytes of the stream header
    assert packed[14:16] == b"\x21\x01"  # LZMA2 with one byte of properties: the dictionary's size
    packed[16] = 40
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    with streams.unpacked(io.BytesIO(packed)) as stream, pytest.raises(lzma.LZMAError, match="[Mm]emory"):
        stream.read(1)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_bomb_is_read_in_little_memory(pack, tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(pack(bytes(40_000_000)))
    tracemalloc.start()
    try:
        with streams.opened(path, lambda amount: None) as stream:
            total = sum(len(piece) for piece in iter(lambda: stream.read(1 << 16), b""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 40_000_000
    assert peak < 16_000_000  # of which xz takes 8 MiB for its dictionary


@pytest.mark.parametrize(("head", "said"), [(b"PK\x03\x04....", "a zip archive"), (b"WARC/1.0\r\n", "a WARC file")])
def test_foreign_archives_are_named(head, said, tmp_path):
    path = tmp_path / "pages"
    path.write_bytes(head)
    with pytest.raises(UserError, match=said) as caught:
        streams.refuse_foreign(path)
    assert str(path) in str(caught.value) and "unpack" in str(caught.value)


def test_an_open_file_is_given_back(tmp_path):
    path = tmp_path / "page.gz"
    path.write_bytes(gzip.compress(TEXT))
    stream = streams.opened(path, lambda amount: None)
    raw = stream.fileobj.raw
    stream.close()
    assert raw.file.closed
