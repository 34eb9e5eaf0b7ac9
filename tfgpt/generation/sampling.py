"""From the logits of one token to the token: the order of the rules, and the draw.

Order, as transformers has it: logit bias, repetition penalty, banned ids, temperature, top-k, top-p, min-p. Each rule
sees what those before it have left. Temperature 0 takes the highest logit after the first three, the lower id of equals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tfgpt.errors import Failure
from tfgpt.generation import rules
from tfgpt.generation.options import Options

Probabilities = npt.NDArray[np.float64]


def draw(logits: rules.Logits, options: Options, *, seen: Sequence[int] = (), uniform: float) -> int:
    """The token that the uniform number (0 <= u < 1) chooses among those that the options leave.

    logits  [V] float32 of the model
    seen    the ids of prompt and output, for the repetition penalty

    >>> draw(np.log([0.5, 0.3, 0.2]), Options(top_k=2), uniform=0.7)
    1
    """
    scores = changed(logits, options, seen)
    top = int(scores.argmax())
    if not np.isfinite(scores[top]):
        # NaN would be drawn as if it were a token, and -inf everywhere leaves none.
        raise Failure(
            "the model's logits are not finite numbers", fix="tfgpt verify DIR looks for damage in a checkpoint"
        )
    if options.temperature == 0:
        return top
    ids, mass = _remaining(scores, options)
    edges = np.cumsum(mass, dtype=np.float64)
    place = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    # Should rounding bring the product to the very end, it belongs to the last token that has any mass.
    place = min(place, int(np.searchsorted(edges, edges[-1])))
    return place if ids is None else int(ids[place])


def distribution(
    logits: rules.Logits, options: Options, *, seen: Sequence[int] = ()
) -> tuple[rules.Places, Probabilities]:
    """The ids that can be drawn, ascending, and their probabilities.

    >>> distribution(np.log([0.5, 0.3, 0.2]), Options(top_k=2))[1].round(3).tolist()
    [0.625, 0.375]
    """
    scores = changed(logits, options, seen)
    if options.temperature == 0:
        return np.array([scores.argmax()]), np.ones(1)
    ids, mass = _remaining(scores, options)
    return np.arange(len(mass)) if ids is None else ids, mass / mass.sum(dtype=np.float64)


def changed(logits: rules.Logits, options: Options, seen: Sequence[int]) -> rules.Logits:
    """The logits after those rules that also hold at temperature 0."""
    if options.logit_bias:
        logits = rules.biased(logits, options.logit_bias)
    if options.repetition_penalty != 1 and len(seen):
        logits = rules.penalised(logits, seen, options.repetition_penalty)
    if options.banned:
        logits = rules.banned(logits, options.banned)
    return logits


def _remaining(scores: rules.Logits, options: Options) -> tuple[rules.Places | None, rules.Logits]:
    """The ids that are left (None: all), ascending, and the mass of each, which need not add up to 1."""
    ids = None
    if options.top_k:
        # Temperature changes no order, so the costly look at the whole vocabulary may come first.
        ids = rules.likeliest(scores, options.top_k)
        scores = scores[ids].astype(np.float64)
    # A temperature that float32 takes for 0 would make 0 / 0 of the highest; at this one, nothing but it is left as well.
    with np.errstate(over="ignore"):
        scores = (scores - scores.max()) / max(options.temperature, 1e-30)
    if options.top_p < 1:
        ids, scores = _kept(rules.nucleus(scores, options.top_p), ids, scores)
    if options.min_p > 0:
        ids, scores = _kept(rules.not_far_below(scores, options.min_p), ids, scores)
    return ids, np.exp(scores)


def _kept(places: rules.Places, ids: rules.Places | None, scores: rules.Logits) -> tuple[rules.Places, rules.Logits]:
    return places if ids is None else ids[places], scores[places]


def log_probability(logits: rules.Logits, token: int) -> float:
    """The model's own log-probability (nats) of `token`, before any rule.

    >>> round(log_probability(np.log(np.array([0.25, 0.75])), 1), 4)
    -0.2877
    """
    shifted = logits - logits.max()
    return float(shifted[token]) - float(np.log(np.exp(shifted).sum(dtype=np.float64)))
