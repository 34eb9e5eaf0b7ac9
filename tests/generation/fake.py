"""An engine that needs no model: logits are a pure function of all ids that a slot holds, and every rule of use is checked."""

from __future__ import annotations

import hashlib

import numpy as np

from tfgpt.generation.language import Language
from tfgpt.tokenizers import from_name


def logits_of(ids, n_vocab: int, *, spread: float = 3.0) -> np.ndarray:
    """Random numbers that the ids alone decide, [V] float32."""
    digest = hashlib.blake2b(np.array(list(ids), np.int64).tobytes(), digest_size=8).digest()
    draw = np.random.default_rng(int.from_bytes(digest, "little"))
    return draw.normal(0, spread, n_vocab).astype("float32")


class FakeEngine:
    """Holds what each slot was given, and answers from that alone."""

    dtype = "float32"

    def __init__(self, *, n_vocab: int = 257, n_ctx: int = 16, slots: int = 1, logits=None) -> None:
        self.n_ctx, self.slots, self.n_vocab = n_ctx, slots, n_vocab
        self.held: dict[int, list[int]] = {}
        self.logits = logits or (lambda ids: logits_of(ids, n_vocab))
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def prefill_many(self, prompts):
        self.calls.append(("prefill", tuple(prompts)))
        for slot, ids in prompts.items():
            assert 0 <= slot < self.slots and 1 <= len(ids) <= self.n_ctx
            assert all(0 <= token < self.n_vocab for token in ids)
            self.held[slot] = list(ids)
        return {slot: self.logits(self.held[slot]) for slot in prompts}

    def step(self, tokens):
        self.calls.append(("step", tuple(tokens)))
        for slot, token in tokens.items():
            assert 0 <= token < self.n_vocab and len(self.held[slot]) < self.n_ctx
            self.held[slot].append(token)
        return {slot: self.logits(self.held[slot]) for slot in tokens}

    def score(self, ids):
        assert 2 <= len(ids) <= self.n_ctx
        rows = [self.logits(ids[:end]).astype(np.float64) for end in range(1, len(ids))]
        scores = [
            row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            for row, token in zip(rows, ids[1:], strict=True)
        ]
        return np.array(scores, np.float32)


def written(text: str, *, eot: bool = False, n_vocab: int = 257):
    """Logits under which a byte model writes exactly `text` after a prompt of one id, and then end-of-text or spaces."""
    ids = [*text.encode("utf-8"), *([256] if eot else [])]

    def logits(held):
        row = np.full(n_vocab, -30.0, np.float32)
        place = len(held) - 1
        row[ids[place] if place < len(ids) else 32] = 30.0
        return row

    return logits


def bytes_language(n_vocab: int = 257) -> Language:
    return Language(from_name("byte"), n_vocab)


def generator(*, language: Language | None = None, **keys):
    """A Generator over a FakeEngine, and what it notes."""
    from tfgpt.generator import Generator

    notes: list[str] = []
    found = Generator(FakeEngine(**keys), language or bytes_language(keys.get("n_vocab", 257)), note=notes.append)
    found.notes = notes
    return found
