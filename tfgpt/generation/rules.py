"""The rules of sampling, each a pure function of the logits of one token (float32 or float64, [V]).

Three change logits and give new ones; three choose, and give the places of those that stay, ascending. In which order they
are used is written in `sampling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.floating]
Places = npt.NDArray[np.intp]


def biased(logits: Logits, bias: Mapping[int, float]) -> Logits:
    """Logits with `bias` added to those of its ids.

    >>> biased(np.array([0.0, 1.0]), {1: 2.0}).tolist()
    [0.0, 3.0]
    """
    changed: Logits = logits.copy()
    changed[list(bias)] += np.array(list(bias.values()), logits.dtype)
    return changed


def penalised(logits: Logits, seen: Sequence[int] | Places, penalty: float) -> Logits:
    """CTRL's rule: the logit of every id in `seen` is divided by `penalty` where positive, and multiplied where negative.

    A penalty above 1 thus makes each of them less likely, once, however often it was seen.

    >>> penalised(np.array([3.0, -3.0, 3.0]), [0, 1], 1.5).tolist()
    [2.0, -4.5, 3.0]
    """
    changed: Logits = logits.copy()
    places = np.asarray(seen, np.intp)
    old = logits[places]
    changed[places] = np.where(old < 0, old * penalty, old / penalty)
    return changed


def banned(logits: Logits, ids: Sequence[int]) -> Logits:
    """Logits in which `ids` have no chance at all.

    >>> banned(np.array([1.0, 2.0]), [1]).tolist()
    [1.0, -inf]
    """
    changed: Logits = logits.copy()
    changed[list(ids)] = -np.inf
    return changed


def likeliest(logits: Logits, k: int) -> Places:
    """The k highest, and all that tie with the k-th: which of equals came first would be chance.

    >>> likeliest(np.array([1.0, 3.0, 2.0, 2.0, 0.0]), 2).tolist()
    [1, 2, 3]
    """
    if k >= len(logits):
        return np.arange(len(logits))
    least = np.partition(logits, len(logits) - k)[len(logits) - k]
    return np.flatnonzero(logits >= least)


def nucleus(logits: Logits, p: float) -> Places:
    """The smallest set of the highest whose mass under softmax reaches `p`, at least one; of equals, the lower place first.

    >>> nucleus(np.log([0.2, 0.5, 0.3]), 0.6).tolist()
    [1, 2]
    """
    heights = np.sort(logits)[::-1]
    mass = np.cumsum(np.exp(heights - heights[0]), dtype=np.float64)
    size = 1 + int(np.count_nonzero(mass[:-1] < p * mass[-1]))
    least = heights[size - 1]
    higher, equal = np.flatnonzero(logits > least), np.flatnonzero(logits == least)
    return np.sort(np.concatenate([higher, equal[: size - len(higher)]]))


def not_far_below(logits: Logits, min_p: float) -> Places:
    """Those with at least `min_p` times the probability of the highest.

    >>> not_far_below(np.log([0.6, 0.25, 0.15]), 0.4).tolist()
    [0, 1]
    """
    with np.errstate(divide="ignore"):
        return np.flatnonzero(logits - logits.max() >= np.log(min_p))
