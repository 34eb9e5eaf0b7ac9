"""Is a data folder what its ledger says? Every byte is read, every id is looked at, every fault is named by place."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tfgpt import files
from tfgpt.data import ledger, records
from tfgpt.data.ledger import Ledger
from tfgpt.data.output import STATE, WORK
from tfgpt.data.shards import INDEX_SUFFIX, Shard
from tfgpt.errors import UserError
from tfgpt.progress import Progress


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the file, the byte offset where there is one, and what."""

    file: str
    what: str
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.file}{'' if self.offset is None else f', byte {self.offset}'}: {self.what}"


@dataclass
class Report:
    """What a check found."""

    shards: int = 0
    records: int = 0
    tokens: int = 0
    largest_id: int = -1
    shortest: int | None = None
    longest: int = 0
    ledger: bool = False
    unfinished: bool = False
    faults: list[Fault] = field(default_factory=list)


def check(folder: str, *, n_vocab: int | None = None) -> Report:
    """Verify a folder of TFRecords: with a ledger against everything it promises, without one record by record.

    >>> check("data/my_text").faults   # doctest: +SKIP
    []
    """
    if not files.is_folder(folder):
        raise UserError(
            f"there is no folder {folder}", where=folder, fix="tfgpt encode YOUR_TEXT --output FOLDER makes one"
        )
    present = sorted(p for p, _ in files.walk(folder) if p.endswith(".tfrecords") and "/." not in p[len(folder) :])
    report = Report()
    if files.exists(files.join(folder, f"{WORK}/{STATE}")):
        report.unfinished = True
        report.faults.append(Fault(WORK, "an encode was interrupted here; the same tfgpt encode command finishes it"))
    known: Ledger | None = None
    if files.exists(files.join(folder, ledger.NAME)):
        known = ledger.read(folder)
        report.ledger = True
        n_vocab = known.tokenizer["n_vocab"]
        report.faults += _check_tokenizer(folder, known)
    elif not present:
        ledger.read(folder)  # raises the error that explains what to do
    listed = {path: s for split in known.splits for s, path in _shards(folder, known, split)} if known else {}
    for path in listed:
        if path not in present:
            report.faults.append(Fault(_short(path, folder), "missing shard"))
    total = sum(files.stat(path).size for path in present)
    with Progress("check", total=total) as bar:
        for path in present:
            if known and path not in listed:
                report.faults.append(Fault(_short(path, folder), "not in the ledger"))
            _check_shard(path, _short(path, folder), listed.get(path), n_vocab, report)
            bar.update(files.stat(path).size)
    return report


def _check_shard(path: str, name: str, promised: Shard | None, n_vocab: int | None, report: Report) -> None:
    with files.open_read(path) as stream:
        data = stream.read()
    report.shards += 1
    entries: list[tuple[int, int]] = []
    damaged = False
    try:
        for document in records.read_documents(io.BytesIO(data)):
            ids = document.ids
            entries.append((document.offset, len(ids)))
            if not len(ids):
                report.faults.append(Fault(name, "empty document", document.offset))
                continue
            largest, smallest = int(ids.max()), int(ids.min())
            report.largest_id = max(report.largest_id, largest)
            wrong = smallest if smallest < 0 else largest
            if smallest < 0 or (n_vocab is not None and largest >= n_vocab):
                at = int(np.flatnonzero(ids == wrong)[0])
                size = "" if n_vocab is None else f" (the vocabulary has {n_vocab})"
                report.faults.append(Fault(name, f"token {at} of the document is id {wrong}{size}", document.offset))
    except records.DamagedRecord as damage:
        report.faults.append(Fault(name, damage.why, damage.offset))
        damaged = True
    report.records += len(entries)
    report.tokens += sum(tokens for _, tokens in entries)
    report.longest = max([report.longest, *(tokens for _, tokens in entries)])
    report.shortest = min(
        [tokens for _, tokens in entries] + ([] if report.shortest is None else [report.shortest]), default=None
    )
    if promised and not damaged:
        report.faults += _compare(path, name, promised, data, entries)


def _compare(path: str, name: str, promised: Shard, data: bytes, entries: list[tuple[int, int]]) -> Iterator[Fault]:
    """A shard whose records are sound against its line in the ledger and its index."""
    if len(data) != promised.bytes:
        yield Fault(
            name, f"{len(data)} bytes, the ledger says {promised.bytes}: whole records are missing or were added"
        )
    elif hashlib.sha256(data).hexdigest() != promised.sha256:
        yield Fault(name, "sha256 is not the ledger's: the file was replaced")
    tokens = sum(count for _, count in entries)
    if (len(entries), tokens) != (promised.records, promised.tokens):
        yield Fault(
            name, f"{len(entries)} records of {tokens} tokens, the ledger says {promised.records} of {promised.tokens}"
        )
    index = path + INDEX_SUFFIX
    if not files.exists(index):
        yield Fault(name + INDEX_SUFFIX, "missing index")
        return
    raw = files.read_bytes(index)
    if hashlib.sha256(raw).hexdigest() != promised.index_sha256:
        yield Fault(name + INDEX_SUFFIX, "sha256 is not the ledger's")
    elif not np.array_equal(np.load(io.BytesIO(raw)).reshape(-1, 2), np.array(entries, np.int64).reshape(-1, 2)):
        yield Fault(name + INDEX_SUFFIX, "index does not fit the shard")


def _check_tokenizer(folder: str, known: Ledger) -> Iterator[Fault]:
    for name, digest in known.tokenizer["files"].items():
        relative = f"{ledger.TOKENIZER_FOLDER}/{name}"
        path = files.join(folder, relative)
        if not files.exists(path):
            yield Fault(relative, "missing")
        elif files.sha256(path) != digest:
            yield Fault(relative, "sha256 is not the ledger's")


def _shards(folder: str, known: Ledger, split: str) -> list[tuple[Shard, str]]:
    return list(zip(known.splits[split], known.paths(folder, split), strict=True))


def _short(path: str, folder: str) -> str:
    return path[len(folder) :].lstrip("/") if path.startswith(folder) else path


def to_json(report: Report) -> str:
    """The report as one line for scripts."""
    return json.dumps(
        {**{k: v for k, v in vars(report).items() if k != "faults"}, "faults": [vars(f) for f in report.faults]}
    )


def vocabulary_of(encoder_path: str | None) -> int | None:
    """Size of the vocabulary that old files without a ledger are checked against."""
    if encoder_path is None:
        return None
    from tfgpt import tokenizers

    if not files.exists(encoder_path):
        raise UserError(f"there is no {encoder_path}", where="--encoder_path", fix="tfgpt download encoder")
    return tokenizers.load(encoder_path).n_vocab
