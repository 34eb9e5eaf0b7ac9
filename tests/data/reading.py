"""Texts, packers and small questions that the tests of the readers share."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import numpy as np
import zstandard

from tfgpt.data import readers, sources

DOCUMENTS = [f"document {n}: " + "naïve words, “quoted” and plain. " * (n % 5 + 2) for n in range(30)]
PACKERS = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}
# What the compressors make of text that hardly compresses, so that a cut anywhere falls into its middle.
NOISE = np.random.default_rng(0).integers(32, 127, 600_000).astype(np.uint8).tobytes()


def raws(path, **options) -> list[readers.Raw]:
    found = sources.find([str(path)], encoding=options.get("encoding", "utf-8"))
    units = sources.plan(found.sources)
    return [raw for unit in units for raw in readers.read(unit, **options)]


def good(found) -> list[bytes]:
    return [raw.data for raw in found if not raw.problem]


def reasons(found) -> list[str]:
    return [raw.problem.partition(" (")[0] for raw in found if raw.problem]


def tar(entries, **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def as_json(texts) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
