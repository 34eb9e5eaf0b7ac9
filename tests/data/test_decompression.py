"""Compressed files that were cut, damaged or added to: nothing is lost in silence."""

from __future__ import annotations

import io
import itertools
import json
import tracemalloc

import pytest
import zstandard

from tests.data.reading import DOCUMENTS, NOISE, PACKERS, as_json, good, raws, reasons
from tfgpt.data import decompression, streams


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99999])
def test_a_cut_text_is_no_document(tmp_path, kind, part):
    packed = PACKERS[kind](NOISE)
    (tmp_path / f"a.txt.{kind}").write_bytes(packed[: int(len(packed) * part)])
    found = raws(tmp_path)
    assert good(found) == [] and reasons(found) == ["unreadable"]


@pytest.mark.parametrize("kind", PACKERS)
def test_every_cut_of_a_small_file_is_noticed(kind):
    packed = PACKERS[kind](b"some text\n" * 100)
    for length in range(len(packed)):
        with pytest.raises(streams.UNREADABLE):
            decompression.finish(decompression.decompressed(io.BytesIO(packed[:length]), kind))
    whole = decompression.decompressed(io.BytesIO(packed), kind)
    assert whole.read() == b"some text\n" * 100
    decompression.finish(whole)


@pytest.mark.parametrize("kind", PACKERS)
def test_lines_before_a_cut_are_kept(tmp_path, kind):
    lines = [json.dumps({"text": NOISE[n : n + 2000].decode()}).encode() for n in range(0, len(NOISE), 2000)]
    packed = PACKERS[kind](b"\n".join(lines))
    (tmp_path / f"a.jsonl.{kind}").write_bytes(packed[: len(packed) // 2])
    found = raws(tmp_path)
    kept = [raw.rstrip(b"\n") for raw in good(found)]
    assert kept == lines[: len(kept)] and len(kept) > len(lines) // 4
    assert reasons(found) == ["unreadable"] and found[-1].problem


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("garbage", [b"garbage", b"\x00\x00x", b"\x1f", b"(\xb5/"])
def test_what_lies_before_garbage_is_kept(tmp_path, kind, garbage):
    (tmp_path / f"a.txt.{kind}").write_bytes(PACKERS[kind](NOISE) + garbage)
    (tmp_path / f"b.jsonl.{kind}").write_bytes(PACKERS[kind](as_json(DOCUMENTS)) + garbage)
    found = raws(tmp_path)
    assert good(found)[0] == NOISE and b"".join(good(found)[1:]) == as_json(DOCUMENTS)
    assert reasons(found) == ["garbage behind the end"] * 2


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("between", [b"", b"\0" * 4, b"\0" * 4096])
def test_several_streams_are_one_file(tmp_path, kind, between):
    parts = [b"first ", b"", NOISE, b"last"]
    (tmp_path / f"a.txt.{kind}").write_bytes(between.join(PACKERS[kind](part) for part in parts) + between)
    (raw,) = raws(tmp_path)
    assert raw.data == b"".join(parts) and not raw.problem


def test_zstandard_frames_of_every_make():
    plain = NOISE * 3 + b"\0" * 1_000_000
    skipped = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00xxxxx"
    for level, checksum, sized, long in itertools.product((1, 19), (True, False), (True, False), (True, False)):
        settings = zstandard.ZstdCompressionParameters.from_level(
            level, write_checksum=checksum, write_content_size=sized, window_log=24 if long else 17
        )
        packed = zstandard.ZstdCompressor(compression_params=settings).compress(
            plain if level == 1 else plain[:200_000]
        )
        expected = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        stream = decompression.decompressed(io.BytesIO(skipped + packed + skipped + packed), "zst")
        assert stream.read() == 2 * expected
        decompression.finish(stream)
        with pytest.raises(EOFError):
            decompression.decompressed(io.BytesIO(packed + packed[:-1]), "zst").read()


@pytest.mark.parametrize("kind", PACKERS)
def test_a_flipped_byte_is_not_fatal(tmp_path, kind):
    packed = bytearray(PACKERS[kind](NOISE))
    packed[len(packed) // 2] ^= 0x55
    (tmp_path / f"a.txt.{kind}").write_bytes(packed)
    (tmp_path / f"b.txt.{kind}").write_bytes(b"not compressed at all")
    (tmp_path / "c.txt").write_text("a good text")
    found = raws(tmp_path)
    # Zstandard writes no checksum unless asked, and a stored block then takes any byte.
    assert reasons(found)[-1] == "unreadable" and good(found)[-1] == b"a good text"
    if kind != "zst":
        assert reasons(found) == ["unreadable"] * 2


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_takes_little_memory(kind):
    packed = io.BytesIO(PACKERS[kind](bytes(64 << 20)))
    tracemalloc.start()
    decompression.finish(decompression.decompressed(packed, kind))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20
