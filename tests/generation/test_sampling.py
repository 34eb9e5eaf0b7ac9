"""Draws: their distribution by chi-square (on 100,000 of them in the slow run), the order of the rules, and the numbers they hang on."""

from __future__ import annotations

import math
import timeit

import numpy as np
import pytest

from tests.generation.fake import logits_of
from tfgpt.errors import Failure
from tfgpt.generation import sampling
from tfgpt.generation.draws import uniform
from tfgpt.generation.options import Options

SEEN = [2, 5, 5, 11]
ALONE = {
    "nothing": {},
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 3.0},
    "top_k": {"top_k": 6},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "penalty": {"repetition_penalty": 1.8},
    "bias": {"logit_bias": {3: 2.0, 9: -1.0}},
    "banned": {"banned": [0, 7, 8]},
}
TOGETHER = {
    "k and p": {"top_k": 10, "top_p": 0.9, "temperature": 1.3},
    "p and min": {"top_p": 0.95, "min_p": 0.04},
    "all": {
        "temperature": 1.4, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.5, "logit_bias": {3: 1.0},
        "banned": [6],
    },
}  # fmt: skip


def reference(logits, seen, options: Options) -> np.ndarray:
    """Probabilities of all ids, by the definitions alone: loops over ids, float64, a new softmax after every rule."""
    scores = logits.astype(np.float64)
    for token, bias in options.logit_bias.items():
        scores[token] += bias
    for token in set(seen):
        scores[token] = (
            scores[token] / options.repetition_penalty
            if scores[token] > 0
            else scores[token] * options.repetition_penalty
        )
    chances = np.exp(scores / options.temperature - (scores / options.temperature).max())
    for token in options.banned:
        chances[token] = 0.0
    if options.top_k:
        least = sorted(chances, reverse=True)[min(options.top_k, len(chances)) - 1]
        chances[chances < least] = 0.0
    chances /= chances.sum()
    if options.top_p < 1:
        mass = 0.0
        for token in sorted(range(len(chances)), key=lambda token: (-chances[token], token)):
            if mass >= options.top_p:
                chances[token] = 0.0
            mass += chances[token]
        chances /= chances.sum()
    chances[chances < options.min_p * chances.max()] = 0.0
    return chances / chances.sum()


def chi_square_limit(freedom: int) -> float:
    """What chi-square exceeds once in a million (Wilson and Hilferty)."""
    z = 4.7534
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.fixture(scope="module")
def numbers():
    """Those that generation uses, position by position."""
    return [uniform(11, 0, position) for position in range(100_000)]


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_draws_follow_the_reference(name, count, numbers):
    options = Options(**(ALONE | TOGETHER)[name])
    logits = logits_of([1, 2, 3], 24, spread=1.5)
    expected = reference(logits, SEEN, options)
    possible = expected > 0
    ids, chances = sampling.distribution(logits, options, seen=SEEN)
    np.testing.assert_allclose(chances, expected[ids], rtol=1e-5)
    assert set(ids[chances > 0]) == set(np.flatnonzero(possible))
    drawn = [sampling.draw(logits, options, seen=SEEN, uniform=number) for number in numbers[:count]]
    counts = np.bincount(drawn, minlength=24)
    assert counts[~possible].sum() == 0
    chi = np.sum((counts[possible] - count * expected[possible]) ** 2 / (count * expected[possible]))
    assert chi < chi_square_limit(int(possible.sum()) - 1)


def test_a_wrong_sampler_is_found_out(numbers):
    """The same test with probabilities that are a hundredth off fails: it can tell."""
    expected = np.full(10, 0.1)
    slanted = expected + 0.01 * np.array([1, -1] * 5)
    drawn = np.searchsorted(np.cumsum(slanted), numbers)
    chi = np.sum((np.bincount(drawn, minlength=10) - 1e4) ** 2 / 1e4)
    assert chi > chi_square_limit(9)


def test_transformers_chain_of_rules_gives_the_same_distribution():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.generation.logits_process
    chain = transformers.LogitsProcessorList(
        [
            theirs.SequenceBiasLogitsProcessor({(3,): 1.0}),
            theirs.RepetitionPenaltyLogitsProcessor(1.5),
            theirs.NoBadWordsLogitsProcessor([[6]]),
            theirs.TemperatureLogitsWarper(1.4),
            theirs.TopKLogitsWarper(12),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.02),
        ]
    )
    options = Options(**TOGETHER["all"])
    for number in range(50):
        logits = logits_of([number], 40, spread=1.5)
        out = chain(torch.tensor([SEEN]), torch.tensor(logits[None].copy()))[0].double().softmax(-1).numpy()
        ids, chances = sampling.distribution(logits, options, seen=SEEN)
        np.testing.assert_allclose(chances, out[ids], rtol=1e-5)
        assert np.flatnonzero(out).tolist() == ids.tolist()


def test_greedy_takes_the_first_of_equals_whatever_the_other_rules_say():
    logits = np.array([1.0, 5.0, 5.0, 4.0], np.float32)
    for keys in ({}, {"top_k": 3}, {"top_p": 0.1, "min_p": 0.9}):
        for number in (0.0, 0.999999):
            assert sampling.draw(logits, Options(temperature=0, **keys), uniform=number) == 1
    assert sampling.draw(logits, Options(temperature=0, repetition_penalty=2.0), seen=[1, 2], uniform=0.5) == 3
    assert sampling.draw(logits, Options(temperature=0, banned=[1, 2]), uniform=0.5) == 3
    assert sampling.draw(logits, Options(temperature=0, logit_bias={0: 9.0}), uniform=0.5) == 0


def test_the_coldest_temperature_is_greedy_and_the_ends_of_the_unit_interval_are_safe():
    logits = logits_of([5], 1000)
    for temperature in (5e-324, 1e-40, 1e-6):
        assert sampling.draw(logits, Options(temperature=temperature), uniform=0.7) == logits.argmax()
    impossible = np.full(10, -np.inf, np.float32)
    impossible[[3, 6]] = [0.0, 1.0]
    for number in (0.0, 1 - 2.0**-53):
        for keys in ({}, {"top_k": 9}, {"top_p": 0.9999999}, {"min_p": 1e-300}):
            assert sampling.draw(impossible, Options(**keys), uniform=number) in (3, 6)


@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(fault):
    logits = logits_of([5], 30)
    logits[7] = fault
    for options in (Options(), Options(top_k=3), Options(temperature=0)):
        with pytest.raises(Failure, match="not finite"):
            sampling.draw(logits, options, uniform=0.1)
    with pytest.raises(Failure, match="not finite"):
        sampling.draw(np.full(5, -np.inf, np.float32), Options(), uniform=0.1)


def test_a_draw_among_the_likeliest_is_cheap():
    """With GPT-2's vocabulary, top-k 40 costs no more than a few readings of the logits, and far less than a sort."""
    logits = logits_of([8], 50257)
    options = Options(top_k=40)
    drawing = min(timeit.repeat(lambda: sampling.draw(logits, options, uniform=0.4), number=20, repeat=9))
    sorting = min(timeit.repeat(lambda: np.argsort(logits), number=20, repeat=9))
    assert drawing < sorting / 2


def test_log_probability_is_that_of_the_model():
    logits = logits_of([8], 3000)
    exact = logits.astype(np.longdouble)
    expected = exact - np.log(np.exp(exact).sum())
    for token in (0, 17, 2999):
        assert abs(sampling.log_probability(logits, token) - float(expected[token])) < 2e-6


def philox(counter, key):
    """Philox 4x64-10, as Salmon and others define it (SC 2011), in whole numbers."""
    mask, (k0, k1), (c0, c1, c2, c3) = 2**64 - 1, key, counter
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & mask, (a >> 64) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return c0, c1, c2, c3


def test_uniform_numbers_are_philox():
    # Known answer of the authors' own test vectors (Random123, kat_vectors).
    assert philox((0, 0, 0, 0), (0, 0))[0] == 0x16554D9ECA36314C
    for seed, sample, position in [(0, 0, 0), (1337, 2, 999), (2**63 - 1, 9_999, 2**40)]:
        # NumPy counts on before it draws.
        bits = philox((position + 1, 0, 0, 0), (seed, sample))[0]
        assert uniform(seed, sample, position) == (bits >> 11) / 2**53
