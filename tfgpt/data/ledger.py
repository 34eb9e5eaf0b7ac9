"""`ledger.json`: everything a data folder promises about itself, so that it can be checked and trained on without a word more."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfgpt import files
from tfgpt.data.shards import Shard
from tfgpt.errors import Failure, UserError

NAME = "ledger.json"
TOKENIZER_FOLDER = "tokenizer"
FORMAT = "tfgpt-data-1"
NEEDED = {
    "tokenizer": ("kind", "n_vocab", "eot", "fingerprint", "files"),
    "rules": ("split", "eval_fraction"),
    "sources": ("fingerprint",),
}


@dataclass
class Ledger:
    """Shards and totals of both splits, the tokenizer, how the data was made and what was left out."""

    tokenizer: dict[str, Any]  # kind, n_vocab, eot, fingerprint, files: name -> sha256
    splits: dict[str, list[Shard]]
    rules: dict[str, Any]
    sources: dict[str, Any]  # files, bytes, documents, sha256 over names and sizes
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)  # reason -> count, examples

    def totals(self, split: str) -> dict[str, int]:
        """Records, tokens, UTF-8 text bytes and file bytes of a split."""
        shards = self.splits.get(split, [])
        return {
            "shards": len(shards),
            "records": sum(s.records for s in shards),
            "tokens": sum(s.tokens for s in shards),
            "text_bytes": sum(s.text_bytes for s in shards),
            "bytes": sum(s.bytes for s in shards),
        }

    def paths(self, folder: str | Path, split: str) -> list[str]:
        """Full paths of a split's shards."""
        return [files.join(str(folder), shard.file) for shard in self.splits.get(split, [])]

    def identity(self) -> str:
        """A short name for exactly this data: same shards, same tokenizer."""
        marks = [s.sha256 for split in sorted(self.splits) for s in self.splits[split]]
        return hashlib.sha256(json.dumps([self.tokenizer["fingerprint"], marks]).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The text of ledger.json; the same data always gives the same text."""
        return (
            json.dumps(
                {
                    "format": FORMAT,
                    "identity": self.identity(),
                    "totals": {split: self.totals(split) for split in self.splits},
                    "tokenizer": self.tokenizer,
                    "rules": self.rules,
                    "sources": self.sources,
                    "dropped": self.dropped,
                    "splits": {split: [vars(s) for s in shards] for split, shards in self.splits.items()},
                },
                indent=1,
            )
            + "\n"
        )


def read(folder: str | Path) -> Ledger:
    """The ledger of a data folder (local or gs://)."""
    path = files.join(str(folder), NAME)
    if not files.exists(path):
        raise UserError(
            "this folder has no ledger.json",
            where=str(folder),
            fix=f"tfgpt encode YOUR_TEXT --output {folder}   (an interrupted encode goes on with the same command)",
        )
    try:
        data = json.loads(files.read_bytes(path))
        if data.get("format") != FORMAT:
            raise ValueError(f"format is {data.get('format')!r}, this version reads {FORMAT!r}")
        for part, needed in NEEDED.items():
            for key in needed:
                data[part][key]
        for shard in (shard for shards in data["splits"].values() for shard in shards):
            shard["bytes"] + shard["records"] + shard["tokens"] + shard["text_bytes"]
        for entry in data["dropped"].values():
            entry["count"] + 1, entry["examples"][0]
        return Ledger(
            tokenizer=data["tokenizer"],
            splits={split: [Shard(**shard) for shard in shards] for split, shards in data["splits"].items()},
            rules=data["rules"],
            sources=data["sources"],
            dropped=data["dropped"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Failure(
            f"ledger.json cannot be read: {error}", where=path, fix="delete this folder and encode the text anew"
        ) from None
