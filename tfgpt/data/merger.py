"""The one place where order matters: drops duplicates, appends to shards, keeps the state that a new start goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tfgpt import files
from tfgpt.data import ledger, sources
from tfgpt.data.documents import SPLITS, Encoded, Rules
from tfgpt.data.duplicates import SeenHashes
from tfgpt.data.job import Job
from tfgpt.data.ledger import Ledger
from tfgpt.data.shards import Limits, Writer
from tfgpt.errors import UserError
from tfgpt.tokenizers import Tokenizer

COMMIT_SECONDS = 2.0
EXAMPLES = 10  # places named in the ledger for each reason of dropping


class Merger:
    """Takes encoded batches in unit order; `finish` closes the last shards and writes the ledger."""

    def __init__(
        self, job: Job, rules: Rules, output: Path, work: Path, fingerprint: str, state: dict[str, Any] | None
    ) -> None:
        self.job, self.rules, self.output, self.work, self.fingerprint = job, rules, output, work, fingerprint
        limits = Limits(job.shard_bytes, job.files_per)
        empty = {"finished": [], "counts": {}}
        saved = state["splits"] if state else {}
        names = {"train": job.name, "eval": f"{job.name}-eval"}
        used = [split for split in SPLITS if split == "train" or rules.split != "none" or split in saved]
        self.writers = {s: Writer.restore(output, work, names[s], limits, saved.get(s, empty)) for s in used}
        self._make_writer = lambda s: Writer.restore(output, work, names[s], limits, empty)
        self.done: tuple[int, int] = tuple(state["done"]) if state else (0, 0)  # type: ignore[assignment]
        self.source_bytes: int = state["source_bytes"] if state else 0
        self.documents: int = state["documents"] if state else 0
        self.dropped: dict[str, dict[str, Any]] = state["dropped"] if state else {}
        self.seen, self._hashes = self._restore_hashes(state["hashes"] if state else 0)
        self._committed = time.monotonic()

    def add(self, position: tuple[int, int], advance: int, encoded: Encoded) -> None:
        """Take what came of one batch; `position` is where to go on afterwards."""
        if self.job.drop_duplicates:
            fresh = self.seen.add(encoded.hashes)
            self._hashes.write(b"".join(encoded.hashes))
        else:
            fresh = [True] * len(encoded.hashes)
        for drop in encoded.dropped:
            self._drop(drop.reason, f"{drop.where}: {drop.detail}" if drop.detail else drop.where)
        row = 0
        for number in range(encoded.read):
            while row < len(encoded.splits) and encoded.read_at[row] == number:
                if fresh[row]:
                    writer = self._writer(encoded.splits[row])
                    writer.add(encoded.framed[row], encoded.tokens[row], encoded.text_bytes[row])
                else:
                    self._drop("duplicate", encoded.places[row])
                row += 1
            for writer in self.writers.values():
                writer.count_document()
        self.documents += encoded.read
        self.source_bytes += advance
        self.done = position
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make everything so far survive whatever comes."""
        for writer in self.writers.values():
            writer.sync()
        self._hashes.flush()
        os.fsync(self._hashes.fileno())
        state = {
            "fingerprint": self.fingerprint,
            "name": self.job.name,
            "done": self.done,
            "source_bytes": self.source_bytes,
            "documents": self.documents,
            "dropped": self.dropped,
            "hashes": self._hashes.tell(),
            "splits": {split: writer.state() for split, writer in self.writers.items()},
        }
        files.write_text(self.work / "state.json", json.dumps(state))
        self._committed = time.monotonic()

    def finish(self, tokenizer: Tokenizer, found: list[sources.Source]) -> Ledger:
        """Close the last shards and write the ledger, whose presence says that the data is complete."""
        for writer in self.writers.values():
            writer.roll()
        written = {split: writer.finished for split, writer in self.writers.items()}
        if not any(written.values()):
            reasons = (
                ", ".join(f"{value['count']} {reason}" for reason, value in self.dropped.items()) or "no document found"
            )
            first = next((place for value in self.dropped.values() for place in value["examples"]), "")
            raise UserError(
                f"nothing was left to write: {reasons}",
                where=first,
                fix=f"lower --minimum_size (now {self.rules.minimum_size} tokens) or check --key, --format and --encoding; then --restart",
            )
        result = Ledger(
            tokenizer=describe_tokenizer(tokenizer),
            splits=written,
            rules={**self.rules.as_dict(), "drop_duplicates": self.job.drop_duplicates},
            sources={
                "files": len(found),
                "bytes": sum(s.size for s in found),
                "documents": self.documents,
                "fingerprint": self.fingerprint,
            },
            dropped=self.dropped,
        )
        files.write_text(self.output / ledger.NAME, result.to_json())
        return result

    @property
    def empty(self) -> bool:
        """Whether no record was kept so far."""
        return not any(writer.finished or writer.counts.records for writer in self.writers.values())

    def close(self) -> None:
        """Release the files; nothing that was committed is touched."""
        # After a full disk even closing wants to write; what was not committed may be lost, so its error is no news.
        for stream in (*self.writers.values(), self._hashes):
            with contextlib.suppress(OSError):
                stream.close()

    def _writer(self, split: str) -> Writer:
        if split not in self.writers:  # a source that says "eval" itself, under --split none
            self.writers[split] = self._make_writer(split)
        return self.writers[split]

    def _drop(self, reason: str, place: str) -> None:
        entry = self.dropped.setdefault(reason, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(place)

    def _restore_hashes(self, length: int) -> tuple[SeenHashes, Any]:
        path = self.work / "hashes"
        stream = open(path, "r+b" if path.exists() else "w+b")
        stream.truncate(length)
        seen = SeenHashes()
        while block := stream.read(32 * 65536):
            seen.add([block[i : i + 32] for i in range(0, len(block), 32)])
        return seen, stream


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the ledger keeps of a tokenizer."""
    return {
        "kind": tokenizer.kind,
        "n_vocab": tokenizer.n_vocab,
        "eot": tokenizer.eot,
        "fingerprint": tokenizer.fingerprint,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in tokenizer.files().items()},
    }
