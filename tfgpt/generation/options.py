"""What a user may ask of generated text, and what is legal; the command line, files of prompts and Python share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tfgpt.errors import Problems, UserError, nearest

DTYPES = ("auto", "float32", "bfloat16", "int8")  # what weights can be kept in
# Texts written at the same time, where nobody says otherwise: more give little on a CPU, and each takes memory.
SLOTS = 8
LONGEST, SAMPLES, SEEDS = 1_000_000, 10_000, 2**63
# A stop string is compared with every text that is written: it is a mark, not a document.
LONGEST_STOP = 1_000


@dataclass(frozen=True)
class Legal:
    """What one option may hold: in words that fit after "must be", and as a test."""

    words: str
    test: Callable[[Any], bool]


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        return good and not (above and value == low)

    return test


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_stop(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(s, str) and 0 < len(s) <= LONGEST_STOP for s in value)


def _is_bias(value: Any) -> bool:
    # JSON has no whole numbers as keys, so "50256" is read as the id 50256.
    return isinstance(value, Mapping) and all(
        str(key).isascii() and str(key).isdecimal() and _number(-1e6, 1e6)(bias) for key, bias in value.items()
    )


LEGAL: dict[str, Legal] = {
    "temperature": Legal("a number from 0 (always the likeliest token) to 100", _number(0, 100)),
    "top_k": Legal("a whole number from 0 (all tokens) to 2147483647", _whole(0, 2**31 - 1)),
    "top_p": Legal("a number above 0 and up to 1 (all tokens)", _number(0, 1, above=True)),
    "min_p": Legal("a number from 0 (all tokens) to 1", _number(0, 1)),
    "repetition_penalty": Legal("a number from 0.01 to 100; 1 is none", _number(0.01, 100)),
    "length": Legal(f"a whole number from 1 to {LONGEST:,}", lambda value: value is None or _whole(1, LONGEST)(value)),
    "stop": Legal(f"a list of texts of 1 to {LONGEST_STOP:,} characters", _is_stop),
    "ignore_eot": Legal("true or false", lambda value: isinstance(value, bool)),
    "seed": Legal(f"a whole number from 0 to {SEEDS - 1}", lambda value: value is None or _whole(0, SEEDS - 1)(value)),
    "num_samples": Legal(f"a whole number from 1 to {SAMPLES:,}", _whole(1, SAMPLES)),
    "logit_bias": Legal("pairs of an id and a number from -1,000,000 to 1,000,000", _is_bias),
    "banned": Legal(
        "a list of ids", lambda value: isinstance(value, (list, tuple)) and all(_whole(0, 2**31 - 1)(i) for i in value)
    ),
    "logprobs": Legal("true or false", lambda value: isinstance(value, bool)),
}


@dataclass(frozen=True)
class Options:
    """How text is drawn and where it ends. Every mistake in it is reported at once, with the legal range.

    temperature         logits are divided by it; 0: always the likeliest token, whatever the other rules say
    top_k               only the k likeliest tokens (and all that tie with the k-th); 0: all
    top_p               only the smallest set of likeliest tokens whose mass reaches p, at least one; 1: all
    min_p               only tokens with at least min_p times the probability of the likeliest; 0: all
    repetition_penalty  logits of tokens that stand in prompt or output are divided by it (if positive) or multiplied; 1: none
    length              most new tokens; None: to the end of the model's context (see docs/generate.md)
    stop                texts before which the output is cut, however the tokens cut them
    ignore_eot          go on behind an end-of-text token instead of stopping there
    seed                the same seed gives the same text; None: a new one, which the result tells
    num_samples         texts from each prompt; sample i is the same however many there are
    logit_bias          what is added to the logits of some ids
    banned              ids that are never drawn
    logprobs            whether the result has the model's own log-probability of each token (before all these rules)

    >>> Options(temperature=0.8, top_k=40, stop=["\\n\\n"]).top_k
    40
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    length: int | None = None
    stop: Sequence[str] = ()
    ignore_eot: bool = False
    seed: int | None = None
    num_samples: int = 1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: Sequence[int] = ()
    logprobs: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        problems = [
            problem for name in LEGAL if (problem := mistake(name, getattr(self, name), where=f'option "{name}"'))
        ]
        if problems:
            raise problems[0] if len(problems) == 1 else Problems("illegal options", problems)
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "logit_bias", {int(key): float(bias) for key, bias in self.logit_bias.items()})

    @classmethod
    def of(cls, values: Mapping[str, Any], *, where: str = "") -> Options:
        """Options from a mapping, of JSON for example; an unknown name is a mistake like any other."""
        for name in values:
            if name not in LEGAL:
                raise UserError(f'there is no option "{name}"', where=where, nearest=nearest(name, list(LEGAL)))
        return cls(**values)

    def changed(self, values: Mapping[str, Any]) -> Options:
        """These options with some of them replaced."""
        return self.of({one.name: getattr(self, one.name) for one in fields(self)} | dict(values))


def mistake(name: str, value: Any, *, where: str) -> UserError | None:
    """What is wrong with the value of an option, if anything is."""
    legal = LEGAL[name]
    if legal.test(value) and not (isinstance(value, float) and math.isnan(value)):
        return None
    return UserError(f"{name} must be {legal.words}, found {value!r:.60}", where=where)


def read(name: str, text: str) -> int | float:
    """The value of a number option from the command line; ValueError with the legal range if it is none."""
    try:
        value: Any = float(text) if name in ("temperature", "top_p", "min_p", "repetition_penalty") else int(text)
    except ValueError:
        value = text
    if mistake(name, value, where=""):
        raise ValueError(f"must be {LEGAL[name].words}, found {text!r:.60}")
    found: int | float = value
    return found
