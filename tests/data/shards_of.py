"""Shards, stores and streams of given documents, and the plain loops that windows are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfgpt.data import records
from tfgpt.data.batches import TrainBatches
from tfgpt.data.tokens import Stored, open_shards
from tfgpt.data.windows import Stream

EOT = 999


def documents_of(lengths, *, seed: int = 0) -> list[list[int]]:
    """Documents of these lengths; every token of all of them is another one, so that each can be told apart."""
    ids = iter((np.random.default_rng(seed).permutation(sum(lengths)) + 1000).tolist())
    return [[next(ids) for _ in range(length)] for length in lengths]


def write_shard(path: Path, documents) -> str:
    flat = np.array([token for document in documents for token in document], np.uint32)
    hashes = [bytes([number % 256]) * 16 for number in range(len(documents))]
    path.write_bytes(b"".join(records.encode_documents(flat, [len(d) for d in documents], hashes)))
    return str(path)


def stored(*shards) -> list[Stored]:
    """Stores of shards in memory, as the token store would map them."""
    made = []
    for documents in shards:
        ids = np.array([token for document in documents for token in (*document, EOT)], np.uint32)
        starts = np.cumsum([0] + [len(document) + 1 for document in documents])
        lengths = [len(document) for document in documents]
        made.append(Stored("memory", ids, starts, "", min(lengths), max(lengths), int(ids.max()), 0))
    return made


def stream(*shards) -> Stream:
    return Stream(stored(*shards))


def batches(source, n_ctx, batch_size, **settings) -> TrainBatches:
    sources = source if isinstance(source, list) else [source]
    weights = settings.pop("weights", [1.0] * len(sources))
    return TrainBatches(sources, weights, **{"batch_size": batch_size, "n_ctx": n_ctx, "eot": EOT, **settings})


def epoch(source, n_ctx, number=0):
    """Ids and labels [count, T] of one epoch, as one batch would have them."""
    made = batches(source, n_ctx, 1).stack(number * source.count, source.count)
    return made.ids[:, 0], made.labels[:, 0]


def opened(path, **options):
    return open_shards([str(path)], **{"eot": EOT, "n_vocab": 1 << 17, **options})
