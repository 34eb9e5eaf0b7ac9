"""What a configuration's data will come to, found out without creating anything: no text is encoded, no cache is filled.

Where a ledger tells, its numbers are taken. Otherwise a sample is read and the rest is estimated from sizes on the disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np

from tfgpt import files, tokenizers
from tfgpt.config import Config
from tfgpt.data import inputs, ledger, prepare, shard_reader, sources, texts
from tfgpt.data.prepare import Part
from tfgpt.errors import Failure
from tfgpt.tokenizers import Tokenizer

SAMPLE_BYTES = 2 << 20  # of text: enough to train a tokenizer that is near the one to come, in a second or two
UNPACKED = 3.0  # bytes of text in a byte of compressed text, roughly
WIDEST_ID = 1 << 30  # while looking at old records whose vocabulary nobody has named


@dataclass
class Outlook:
    """The data of a run, as far as it can be known before anything is made of it.

    train_tokens, eval_tokens   labels in one epoch, and in all held-out text; None where nobody can tell
    exact                       False where the numbers are estimates
    pending_bytes               of text that would have to be encoded first; 0 when the records are there
    cache_bytes                 that records and token store may still take on the disk
    n_vocab                     as training would have it; with `pending_bytes`, as a sample makes it
    sample                      some of the text, where it was cheap to get at
    """

    what: str
    train_tokens: int | None = None
    eval_tokens: int | None = None
    exact: bool = True
    pending_bytes: int = 0
    cache_bytes: int = 0
    n_vocab: int | None = None
    eot: int | None = None
    tokenizer: Tokenizer | None = None
    sample: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def eval_batches(self, config: Config) -> int:
        """Batches in one evaluation."""
        if self.eval_tokens is None or config.eval_steps == 0:
            return 0
        windows = -(-self.eval_tokens // config.n_ctx)
        if config.eval_steps != "all":
            windows = min(windows, int(config.eval_steps) * config.eval_batch_size)
        return -(-windows // config.eval_batch_size)


def look(config: Config) -> Outlook:
    """What training would find; mistakes that training would stop at are raised as it would raise them.

    >>> look(config.load("quickstart")).train_tokens   # doctest: +SKIP
    512000
    """
    if config.text:
        folder = prepare.text_folder(config)
        if not files.exists(files.join(folder, ledger.NAME)):
            return _unencoded(config, folder)
        known = ledger.read(folder)
        parts = [Part(*(tuple(known.paths(folder, s)) for s in ("train", "eval")), ledger=known, folder=folder)]
    else:
        parts = prepare.prepare(config)  # without text it only looks
    if not parts:
        return _from_function(config)
    return _from_records(config, parts)


def _unencoded(config: Config, folder: str) -> Outlook:
    """Text that training would encode first: a sample of it is, in memory, and the rest is a rule of three."""
    found = sources.find(config.text)
    size = round(sum(s.size * (UNPACKED if s.compression else 1.0) for s in found.sources))
    sample = list(texts.texts_of(found.sources, prepare.text_rules(config), limit=SAMPLE_BYTES))
    if not sample:
        raise Failure("there is no text in these files", where=", ".join(config.text), fix="--set text=FOLDER")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a sample is too small for the whole vocabulary says nothing of the text
        tokenizer = tokenizers.from_name(config.tokenizer, encoder_path=config.encoder_path, texts=lambda: sample)
    n_vocab, eot = inputs.vocabulary_of(config, tokenizer, None)
    if config.tokenizer.startswith("bpe:") and config.n_vocab is None and size > SAMPLE_BYTES:
        n_vocab = max(n_vocab, int(config.tokenizer[4:]))  # all the text will fill what a sample may not
    ids, lengths = tokenizer.encode_batch(sample)
    tokens = (len(ids) + len(lengths)) / max(sum(len(text.encode("utf-8")) for text in sample), 1) * size
    width = 2 if n_vocab <= 1 << 16 else 4
    return Outlook(
        f"{len(found.sources):,} file{'s' * (len(found.sources) > 1)} of text, {size_words(size)}, not encoded yet",
        train_tokens=round(tokens * (1 - config.eval_fraction)),
        eval_tokens=round(tokens * config.eval_fraction) or None,
        exact=False,
        pending_bytes=size,
        # Records take as much as the encoder asks for beforehand; the token store is made of them.
        cache_bytes=round(0.7 * size + width * tokens),
        n_vocab=n_vocab,
        eot=eot,
        tokenizer=tokenizer,
        sample=sample[:20],
        notes=[f"{count} files ending in {suffix} are not read" for suffix, count in found.skipped.most_common(3)],
    )


def _from_records(config: Config, parts: Sequence[Part]) -> Outlook:
    notes: list[str] = []
    ledgers = inputs.ledgers_of(parts)
    tokenizer = inputs.tokenizer_of(config, ledgers, notes)
    n_vocab, eot = inputs.vocabulary_of(config, tokenizer, None)
    sample = _decoded(parts[0].train[0], tokenizer) if tokenizer and parts[0].train else []
    promised = {path: shard for folder, known in ledgers.items() for path, shard in inputs.shards_of(folder, known)}
    count = partial(_count, promised=promised, notes=notes)
    train, exact = count([path for part in parts for path in part.train])
    held, also_exact = count([path for part in parts for path in part.eval])
    shards = sum(len(part.train) + len(part.eval) for part in parts)
    where = (
        f" in {parts[0].folder}"
        if len(parts) == 1 and parts[0].folder
        else f" in {len(parts)} parts" * (len(parts) > 1)
    )
    return Outlook(
        f"{shards} shard{'s' * (shards > 1)} of records{where}",
        train_tokens=train,
        eval_tokens=held or None,
        exact=exact and also_exact,
        cache_bytes=(2 if n_vocab <= 1 << 16 else 4) * (train + held),
        n_vocab=n_vocab,
        eot=eot,
        tokenizer=tokenizer,
        sample=sample,
        notes=notes,
    )


def _decoded(path: str, tokenizer: Tokenizer) -> list[str]:
    """The first few documents of a shard, as far as its tokenizer knows their ids."""
    reader = shard_reader.read(path, n_vocab=WIDEST_ID, skip=True)
    ids, lengths = next(islice(reader.batches(), 1), (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    ends = np.cumsum(lengths)[:20]
    pieces = np.split(ids[: ends[-1]], ends[:-1]) if len(ends) else []
    return [tokenizer.decode(piece) for piece in pieces if piece.max(initial=0) < tokenizer.n_vocab]


def _from_function(config: Config) -> Outlook:
    function = prepare.input_function(config.input)
    notes: list[str] = []
    tokenizer = inputs.tokenizer_of(config, {}, notes)
    n_vocab, eot = inputs.vocabulary_of(config, tokenizer, None)
    what = f"the function {function.__module__}:{function.__name__}, whose data nobody can count"
    return Outlook(what, n_vocab=n_vocab, eot=eot, tokenizer=tokenizer, exact=False, notes=notes)


def _count(paths: Sequence[str], *, promised: dict, notes: list[str]) -> tuple[int, bool]:
    """Labels in these shards, and whether that is exact: where no ledger tells, the beginning of the largest shard stands for all."""
    total, unknown = 0, []
    for path in paths:
        if not files.exists(path):
            raise Failure("a shard is missing", where=path, fix="restore it, or encode the text anew")
        if (shard := promised.get(path)) is None:
            unknown.append(path)
        else:
            total += shard.tokens + shard.records  # each document's end-of-text is a label as well
            if (size := files.size(path)) != shard.bytes:
                notes.append(f"{path} has {size:,} bytes, its ledger says {shard.bytes:,}")
    if unknown:
        sizes = {path: files.size(path) for path in unknown}
        reader = shard_reader.read(max(unknown, key=sizes.__getitem__), n_vocab=WIDEST_ID, skip=True)
        ids, lengths = next(islice(reader.batches(), 1), (np.zeros(0), np.zeros(0)))
        share = (len(ids) + len(lengths)) / max(reader.offset, 1)
        total += round(share * sum(sizes.values()))
    return total, not unknown


def size_words(count: float) -> str:
    """Bytes for people.

    >>> size_words(1_234_000), size_words(5.6e9)
    ('1.2 MB', '5.60 GB')
    """
    for unit, digits, scale in (("GB", 2, 1e9), ("MB", 1, 1e6), ("kB", 1, 1e3)):
        if count >= scale:
            return f"{count / scale:,.{digits}f} {unit}"
    return f"{count:.0f} bytes"
