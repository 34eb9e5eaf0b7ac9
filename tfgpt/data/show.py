"""A look into a data folder: totals, a histogram of document lengths, and decoded samples."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from tfgpt import files
from tfgpt.data import ledger, records
from tfgpt.data.ledger import Ledger
from tfgpt.data.shards import INDEX_SUFFIX
from tfgpt.errors import Failure
from tfgpt.tokenizers import Tokenizer

BAR_WIDTH = 40
CHECK = "tfgpt data check names everything that is damaged"


def lengths(folder: str, known: Ledger, split: str) -> np.ndarray:
    """Tokens of every document of a split, from the index files alone."""
    parts = [index_of(path)[:, 1] for path in known.paths(folder, split)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def index_of(path: str) -> np.ndarray:
    """Byte offset and tokens of each record of a shard: int64 [records, 2]."""
    try:
        return np.load(io.BytesIO(files.read_bytes(path + INDEX_SUFFIX)), allow_pickle=False).reshape(-1, 2)
    except (OSError, ValueError, EOFError) as error:
        raise Failure(f"the index of a shard cannot be read: {error}", where=path + INDEX_SUFFIX, fix=CHECK) from None


def histogram(values: np.ndarray) -> list[str]:
    """Document lengths in powers of two, one bar a line.

    >>> print("\\n".join(histogram(np.array([30, 40, 70]))))
           32 tokens       1  ####################
           64 tokens       1  ####################
          128 tokens       1  ####################
    """
    if not len(values):
        return ["  (no documents)"]
    powers = np.ceil(np.log2(np.maximum(values, 1))).astype(int)
    low, high = int(powers.min()), int(powers.max())
    counts = np.bincount(powers - low, minlength=high - low + 1)
    longest = max(int(counts.max()), 1)
    scale = min(BAR_WIDTH, max(longest * 20, 1)) / longest
    return [
        f"  {1 << (low + i):>7,} tokens {count:>7,}  {'#' * max(round(count * scale), int(count > 0))}".replace(
            ",", " "
        )
        for i, count in enumerate(counts)
    ]


def samples(folder: str, known: Ledger, split: str, *, count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Places and ids of documents drawn at random; only their own bytes are read."""
    shards = list(zip(known.splits.get(split, []), known.paths(folder, split), strict=True))
    total = sum(shard.records for shard, _ in shards)
    if not total:
        return
    drawn = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    first = 0
    for shard, path in shards:
        here = drawn[(drawn >= first) & (drawn < first + shard.records)] - first
        first += shard.records
        if not len(here):
            continue
        index = index_of(path)
        for row in here.tolist():
            offset = int(index[row, 0])
            try:
                with files.open_read(path, start=offset) as stream:
                    document = next(records.read_documents(stream))
            except (OSError, StopIteration, records.DamagedRecord) as error:
                raise Failure(f"a record cannot be read: {error}", where=f"{path}, byte {offset}", fix=CHECK) from None
            yield f"{shard.file}, byte {offset}, {len(document.ids)} tokens", document.ids


def summary(known: Ledger) -> list[str]:
    """Totals and what was left out, as lines."""
    out = []
    for split in known.splits:
        t = known.totals(split)
        per_token = t["text_bytes"] / max(t["tokens"], 1)
        out.append(
            f"{split + ':':<7}{t['records']:>10,} documents {t['tokens']:>14,} tokens {t['text_bytes']:>14,} bytes of text "
            f"({per_token:.2f} bytes a token) in {t['shards']} shard{'s' if t['shards'] != 1 else ''}"
        )
    held = {
        "documents": f"{100 * known.rules['eval_fraction']:.3g}% of the documents, chosen by content",
        "tail": f"the last {100 * known.rules['eval_fraction']:.3g}% of each document",
        "none": "nothing",
    }[known.rules["split"]]
    if who := known.rules.get("held"):
        held = "the conversation with " + ", ".join(map(printable, who))
    out.append(f"eval holds {held}; tokenizer {known.tokenizer['kind']} of {known.tokenizer['n_vocab']:,} ids")
    for reason, entry in known.dropped.items():
        out.append(f"left out: {entry['count']:,} {printable(reason)} (first: {printable(entry['examples'][0])})")
    return out


def excerpt(tokenizer: Tokenizer, ids: np.ndarray, *, width: int = 300) -> str:
    """The beginning of a document as text, safe to print."""
    text = printable(tokenizer.decode(ids[: width * 2]), also="\n")
    return text if len(text) <= width else text[:width] + " ..."


def printable(text: str, *, also: str = "") -> str:
    """`text` without what could steer a terminal or break a line: file names and documents are other people's words."""
    return "".join(c if c.isprintable() or c in also else "\ufffd" for c in text)


def folder_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer that lies beside the data."""
    from tfgpt import tokenizers

    return tokenizers.load(files.join(folder, ledger.TOKENIZER_FOLDER))
