"""How likely a model finds a text: the log-probability of each token, whatever the text's length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tfgpt.errors import Failure, UserError
from tfgpt.generation.language import Language
from tfgpt.tokenizers.base import well_formed


class Scorer(Protocol):
    """What is needed of an engine; see `tfgpt.generation.engine`."""

    n_ctx: int

    def score(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log-probability of each id but the first, given those before it; n_ctx ids at most."""


@dataclass(frozen=True)
class Score:
    """What `score` finds in a text.

    tokens, pieces   its ids, and the text of each (U+FFFD where a token is part of a character)
    logprobs         log-probability of each in nats, given what stands before it in its window
    bytes            length of the text in UTF-8
    windows          how many windows it took; 1: every token saw all that stands before it
    """

    tokens: list[int]
    pieces: list[str]
    logprobs: list[float]
    bytes: int
    windows: int

    @property
    def total(self) -> float:
        """Log-probability of the whole text, in nats."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss of a token."""
        mean = -self.total / len(self.logprobs)
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Loss in bits for each byte of the text: the measure that does not depend on the tokenizer."""
        return -self.total / math.log(2) / self.bytes


def score(engine: Scorer, language: Language, text: str) -> Score:
    """The score of `text`, read as the beginning of a document: its first token is given end-of-text.

    A text that is longer than the context is scored in windows that overlap by half: each token is scored once, in the
    first window that holds it, where it sees at least half a context of what stands before it.
    """
    text = well_formed(text)
    ids = language.tokenizer.encode(text)
    if not ids:
        raise UserError("there is no text to score", fix="give a text of one character or more")
    if engine.n_ctx < 2:
        raise UserError("a model with a context of one token cannot score what follows it")
    given = [*language.beginning, *ids]
    found: list[float] = []
    windows = 0
    for start, end in spans(len(given), engine.n_ctx):
        # The first id of a window is only given; of the rest, the last ones are new.
        row = engine.score(given[start:end])
        found += row[len(found) - start :].tolist()
        windows += 1
    if not all(map(math.isfinite, found)):
        raise Failure("the model's numbers are not finite", fix="tfgpt verify DIR looks for damage in a checkpoint")
    pieces = [language.decode([token]) for token in ids]
    return Score(ids, pieces, found, len(text.encode("utf-8")), windows)


def spans(length: int, n_ctx: int) -> Iterator[tuple[int, int]]:
    """Windows [start, end) over `length` ids, each half a context behind the one before.

    >>> list(spans(20, 8))
    [(0, 8), (4, 12), (8, 16), (12, 20)]
    """
    start = 0
    while True:
        yield start, min(start + n_ctx, length)
        if start + n_ctx >= length:
            return
        start += max(1, n_ctx // 2)
