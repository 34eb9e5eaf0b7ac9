"""Permutations and mixtures against sets, counts and loops."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.data import order


@settings(max_examples=60)
@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_a_permutation_hits_every_place_once(size, seed):
    assert sorted(order.permuted(np.arange(size), size, order.mixed(seed)).tolist()) == list(range(size))


@settings(max_examples=40)
@given(
    st.integers(2, 2**45), st.integers(0, 2**63), st.lists(st.integers(0, 2**45), min_size=2, max_size=30, unique=True)
)
def test_a_large_permutation_keeps_numbers_apart_and_inside(size, seed, numbers):
    numbers = np.unique(np.array(numbers) % size)
    images = order.permuted(numbers, size, order.mixed(seed))
    assert len(set(images.tolist())) == len(numbers) and images.min() >= 0 and images.max() < size


def test_one_by_one_is_the_same_as_all_at_once():
    size, keys = 1000, order.mixed(7, np.arange(1000) % 3)
    together = order.permuted(np.arange(size), size, keys)
    alone = [int(order.permuted(np.array([i]), size, keys[i : i + 1])[0]) for i in range(size)]
    assert together.tolist() == alone


def test_pieces_make_no_difference(monkeypatch):
    numbers, keys = np.arange(600).reshape(20, 30), order.mixed(7, np.arange(20))[:, None]
    whole = order.permuted(numbers, 1000, keys)
    monkeypatch.setattr(order, "PIECE", 7)
    assert np.array_equal(order.permuted(numbers, 1000, keys), whole)


@pytest.mark.parametrize("size", [4, 7, 1000])
def test_permutations_are_uniform_enough(size):
    """The image of one index over many keys: chi-square against the uniform distribution."""
    keys = order.mixed(3, np.arange(200 * min(size, 100)))
    images = order.permuted(np.full(len(keys), size // 2), size, keys)
    counts = np.bincount(images * min(size, 100) // size)
    expected = len(keys) / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 6 * np.sqrt(2 * len(counts))


def test_neighbours_are_not_neighbours_any_more():
    images = order.permuted(np.arange(10_000), 10_000, order.mixed(1))
    assert (np.diff(images) == 1).sum() < 10 and abs(np.corrcoef(np.arange(10_000), images)[0, 1]) < 0.05
    other = order.permuted(np.arange(10_000), 10_000, order.mixed(2))
    assert (images == other).sum() < 10


def test_another_process_draws_the_same():
    code = "import numpy as np; from tfgpt.data import order; print(order.permuted(np.arange(99), 99, order.mixed(5, 'x' > 'a')).tolist())"
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert said == {(str(order.permuted(np.arange(99), 99, order.mixed(5, 1)).tolist()) + "\n").encode()}


def test_the_hash_is_splitmix64():
    """mixed(x) is the first output of SplitMix64 seeded with x, by arithmetic on Python's own integers."""

    def splitmix(seed: int) -> int:
        mask = 2**64 - 1
        z = (seed + 0x9E3779B97F4A7C15) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    assert splitmix(0) == 0xE220A8397B1DCDAF, "the published first output for seed 0"
    assert order.mixed(np.array([0, 1, 2**40])).tolist() == [splitmix(0), splitmix(1), splitmix(2**40)]
    assert order.mixed(5, 9).tolist() == [splitmix(splitmix(5) ^ 9)]


@pytest.mark.parametrize("weights", [[1.0], [0.3, 0.7], [1, 1, 1], [5, 1e-9, 2], [0.123, 0.456, 0.789, 3]])
def test_turns_keep_shares_in_every_stretch_and_count_each_source_without_a_gap(weights):
    turns = order.Turns(weights)
    source, number = turns.of(np.arange(25_000))
    share = np.array(weights) / sum(weights)
    for index in range(len(weights)):
        assert number[source == index].tolist() == list(range((source == index).sum()))
        taken = np.cumsum(source == index)
        assert np.abs(taken - share[index] * np.arange(1, 25_001)).max() < 2 * len(weights)
        assert taken[-1] > 0
    far, far_number = turns.of(np.array([10**12]))
    block = len(turns.block)
    expected = 10**12 // block * (turns.block == far[0]).sum() + (turns.block[: 10**12 % block] == far[0]).sum()
    assert far_number[0] == expected
