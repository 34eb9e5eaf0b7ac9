"""Order out of numbers: hashes, a permutation without memory, and the turns of a mixture, all pure functions.

Nothing here holds state, so the example with number 10**9 is found as fast as the first one, by any worker, on any machine. The
arithmetic is that of 64-bit integers alone: no library's random generator can change the order between two versions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF_ROUNDS = 8
PIECE = 1 << 16  # numbers permuted together, which bounds the memory for their keys
TURNS = 10_000  # examples in one block of a mixture; weights are kept to within 1 / (2 * TURNS)


def mixed(*numbers: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of several numbers or arrays of them, which broadcast; always an array of at least one dimension.

    >>> mixed(1337, np.arange(3)).shape
    (3,)
    """
    with np.errstate(over="ignore"):
        hashed = np.zeros(1, np.uint64)
        for number in numbers:
            word = np.atleast_1d(np.asarray(number)).astype(np.uint64)
            hashed = _finish((hashed ^ word) + GOLDEN)
        return hashed


def permuted(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Where each of `index` (all in 0..size-1) comes to lie in the permutation of 0..size-1 that its `key` names.

    A Feistel network over the next power of two; what falls outside goes through it again until it falls inside, which keeps
    the whole one to one (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    >>> sorted(permuted(np.arange(5), 5, mixed(1)).tolist())
    [0, 1, 2, 3, 4]
    """
    assert size >= 1
    if size == 1:
        return np.zeros_like(index)
    numbers = index.ravel()
    keys = np.broadcast_to(key, index.shape).ravel()
    pieces = [_permuted(numbers[i : i + PIECE], size, keys[i : i + PIECE]) for i in range(0, len(numbers), PIECE)]
    return np.concatenate([numbers[:0], *pieces]).reshape(index.shape)


class Turns:
    """Which source of a weighted mixture example number g comes from, and how many of that source came before it.

    The sources of TURNS examples are laid out once, each spread as evenly as its share allows, and this block repeats. So the
    shares hold in every stretch of examples instead of on average only, each source is walked through without a gap, and
    both answers need no loop over what came before.

    >>> turns = Turns([0.3, 0.7])
    >>> source, number = turns.of(np.arange(10))
    >>> source.tolist().count(0), number[source == 1].tolist()
    (3, [0, 1, 2, 3, 4, 5, 6])
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = _shares(weights)  # examples of each source in a block
        times = [(np.arange(count) + 0.5) / count for count in self.counts]
        sources = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.argsort(np.concatenate(times), kind="stable")
        self.block = sources[order]  # [examples in a block] number of the source
        self.before = np.zeros_like(self.block)  # examples of the same source earlier in the block
        for source, count in enumerate(self.counts):
            self.before[self.block == source] = np.arange(count)

    def of(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each example, and its number within that source."""
        turn, place = np.divmod(examples, len(self.block))
        source = self.block[place]
        return source, turn * np.array(self.counts, np.int64)[source] + self.before[place]


def _shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of `weights` that add up to TURNS: the largest remainders are rounded up."""
    if len(weights) == 1:
        return [1]
    exact = np.array(weights, float) / sum(weights) * TURNS
    counts = np.floor(exact).astype(int)
    for source in np.argsort(counts - exact, kind="stable")[: TURNS - counts.sum()]:
        counts[source] += 1
    counts[counts == 0] = 1  # a source that somebody named is never left out altogether
    divisor = np.gcd.reduce(counts)
    return (counts // divisor).tolist()  # type: ignore[no-any-return]


def _permuted(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    bits = max(2, (size - 1).bit_length())
    low = np.uint64(bits - bits // 2)
    masks = (np.uint64((1 << bits // 2) - 1), np.uint64((1 << int(low)) - 1))
    keys = mixed(key[:, None], np.arange(HALF_ROUNDS))
    result = index.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        result[outside] = _network(result[outside], keys[outside], low, masks)
        outside = outside[result[outside] >= np.uint64(size)]
    return result.astype(np.int64)


def _network(words: np.ndarray, keys: np.ndarray, low: np.uint64, masks: tuple[np.uint64, np.uint64]) -> np.ndarray:
    left, right = words >> low, words & masks[1]
    with np.errstate(over="ignore"):
        for number in range(0, HALF_ROUNDS, 2):
            left = left ^ (_finish(right + keys[:, number]) & masks[0])
            right = right ^ (_finish(left + keys[:, number + 1]) & masks[1])
    return left << low | right


def _finish(words: np.ndarray) -> np.ndarray:
    """The last steps of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output."""
    words = (words ^ words >> np.uint64(30)) * FIRST
    words = (words ^ words >> np.uint64(27)) * SECOND
    return words ^ words >> np.uint64(31)
