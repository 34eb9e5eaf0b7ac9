"""Scores: each token once, in the window that the rule says, against softmax written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.generation.fake import FakeEngine, bytes_language, generator, logits_of
from tfgpt.errors import Failure, UserError
from tfgpt.generation import scoring


def expected(ids, n_ctx):
    """Token by token: the first window (each half a context behind the one before) that holds it decides what it sees."""
    given, found = [256, *ids], []
    for place in range(1, len(given)):
        start = 0
        while place >= start + n_ctx:
            start += n_ctx // 2
        row = logits_of(given[start:place], 257).astype(np.float64)
        found.append(row[given[place]] - math.log(math.fsum(map(math.exp, row))))
        assert start == 0 or place - start >= n_ctx // 2
    return found


@pytest.mark.parametrize("n_ctx", [2, 3, 8, 9])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 40])
def test_every_token_once_in_its_window(n_ctx, length):
    text = "".join(chr(97 + number % 26) for number in range(length))
    score = generator(n_ctx=n_ctx).score(text)
    np.testing.assert_allclose(score.logprobs, expected(text.encode(), n_ctx), rtol=1e-5)
    assert score.tokens == list(text.encode()) and score.pieces == list(text)
    assert score.windows == 1 + max(0, math.ceil((length + 1 - n_ctx) / (n_ctx // 2)))
    assert score.perplexity == pytest.approx(math.exp(-sum(score.logprobs) / length))
    assert score.bits_per_byte == pytest.approx(-sum(score.logprobs) / math.log(2) / length)


def test_bytes_are_counted_and_characters_that_tokens_split_are_marked():
    score = generator(n_ctx=16).score("é🙂")
    assert score.bytes == 6 and score.pieces == ["\ufffd"] * 6
    assert generator().score("\udc80").bytes == 3


def test_what_cannot_be_scored():
    with pytest.raises(UserError, match="no text"):
        generator().score("")
    with pytest.raises(UserError, match="one token"):
        generator(n_ctx=1).score("ab")
    with pytest.raises(Failure, match="finite"):
        scoring.score(FakeEngine(logits=lambda held: np.full(257, np.nan, np.float32)), bytes_language(), "ab")
    hopeless = generator(logits=lambda held: np.array([1e4] + [0] * 256, np.float32)).score("ab")
    assert hopeless.perplexity == math.inf and hopeless.total == pytest.approx(-2e4)
