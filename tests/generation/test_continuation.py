"""Samples while training: against a loop that computes all logits itself, and against the probabilities of the model."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt.config import Config


@pytest.fixture(scope="module")
def gpt():
    from tfgpt.model import GPT

    gpt = GPT(Config(n_embd=16, n_head=2, n_layer=2, n_ctx=8, n_vocab=70, tokenizer="char", data_path="none"))
    for variable in gpt.table.values():
        variable.assign(variable * 12.0)  # a model with opinions
    return gpt


def test_the_likeliest_token_each_time_within_the_last_n_ctx(gpt):
    from tfgpt.generation.continuation import Continuation

    found = Continuation(gpt, top_k=1)([3, 5], tokens=12)
    text = [3, 5]
    for _ in range(12):
        logits = np.asarray(gpt(np.array([text[-8:]], "int32")))[0, -1]
        text.append(int(logits.argmax()))
    assert found == text and max(text) < 70, "the padding of the vocabulary is never drawn"


def test_it_stops_and_repeats_itself_by_seed(gpt):
    from tfgpt.generation.continuation import Continuation

    text = Continuation(gpt, top_k=1)([3, 5], tokens=6)
    assert Continuation(gpt, top_k=1)([3, 5], tokens=6, stop=text[4]) == text[: text.index(text[4], 2)]
    draws = [Continuation(gpt, top_k=0, seed=seed)([3, 5], tokens=6) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_draws_follow_the_probabilities_of_the_k_likeliest(gpt):
    from tfgpt.generation.continuation import Continuation

    logits = np.asarray(gpt(np.array([[3, 5]], "int32")))[0, -1].astype(np.float64)
    best = np.argsort(-logits)[:3]
    expected = np.exp(logits[best] - logits[best].max())
    expected /= expected.sum()
    go_on = Continuation(gpt, top_k=3)
    draws = []
    for seed in range(300):
        go_on.seed = seed
        draws.append(int(go_on._draw(np.array([[3, 5, 0, 0, 0, 0, 0, 0]], "int32"), 1, 0)))
    assert set(draws) <= set(best.tolist())
    shares = np.array([draws.count(token) / 300 for token in best])
    assert np.abs(shares - expected).max() < 0.1
