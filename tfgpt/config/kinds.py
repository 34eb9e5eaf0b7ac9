"""The kinds of values a key can hold, each with the words that say what is legal; errors and the reference share them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

INPUTS = ("tfrecords", "openwebtext", "openwebtext_long", "openwebtext_longbiased")
TOKENIZERS = ("gpt2", "char", "char+bytes", "byte", "bpe:4096")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Legal:
    """What a key may hold, in words that fit after "must be"."""

    words: str


def _rule(
    test: Callable[[Any], bool], words: str, *, change: Callable[[Any], Any] = lambda value: value
) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise PydanticCustomError("illegal", "must be {words}", {"words": words})
        return change(value)

    return BeforeValidator(check)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_tokenizer(value: Any) -> bool:
    if not _is_name(value):
        return False
    if value.startswith("bpe:"):
        return value[4:].isascii() and value[4:].isdecimal() and int(value[4:10]) >= 257 and len(value) <= 10
    return True


def _is_attention(value: Any) -> bool:
    kinds = ("global", "local", "sliding")
    return isinstance(value, list) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and isinstance(pair[0], list)
        and len(pair[0]) > 0
        and all(kind in kinds for kind in pair[0])
        and _is_whole(pair[1])
        and 1 <= pair[1] <= 100_000
        for pair in value
    )


_LIST_WORDS = "a path, a glob, or a list of them"
_TOKENIZER_WORDS = '"gpt2", "char", "char+bytes", "byte", "bpe:N" with N from 257 to 999999, or the path of a folder'
_INPUT_WORDS = f'one of {", ".join(f"{chr(34)}{name}{chr(34)}" for name in INPUTS)}, or "package.module:function"'
_RECOMPUTE_WORDS = '"none", "block", or a whole number of at least 1 (blocks kept together)'
_EVAL_WORDS = 'a whole number from 0 to 2147483647, or "all"'
_ATTENTION_WORDS = (
    'a list like [[["global", "local"], 6]]: kinds ("global", "local", "sliding") and how often they repeat'
)
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unsigned = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, _rule(_is_name, "a text that is not empty"), Legal("a text that is not empty")]
Paths = Annotated[
    list[str],
    _rule(
        lambda v: _is_name(v) or isinstance(v, list) and all(map(_is_name, v)),
        _LIST_WORDS,
        change=lambda v: [v] if isinstance(v, str) else v,
    ),
    Legal(_LIST_WORDS),
    WithJsonSchema(_TEXTS),
]
Tokenizer = Annotated[str, _rule(_is_tokenizer, _TOKENIZER_WORDS), Legal(_TOKENIZER_WORDS)]
Input = Annotated[
    str,
    _rule(lambda v: isinstance(v, str) and (v in INPUTS or bool(FUNCTION.fullmatch(v))), _INPUT_WORDS),
    Legal(_INPUT_WORDS),
]
Recompute = Annotated[
    Literal["none", "block"] | int,
    _rule(lambda v: v in ("none", "block") or _is_whole(v) and 1 <= v <= LARGEST, _RECOMPUTE_WORDS),
    Legal(_RECOMPUTE_WORDS),
]
EvalSteps = Annotated[
    Literal["all"] | int,
    _rule(lambda v: v == "all" or _is_whole(v) and 0 <= v <= LARGEST, _EVAL_WORDS),
    Legal(_EVAL_WORDS),
]
AttentionTypes = Annotated[
    list[tuple[list[Literal["global", "local", "sliding"]], int]],
    _rule(_is_attention, _ATTENTION_WORDS, change=lambda v: [(pair[0], pair[1]) for pair in v]),
    Legal(_ATTENTION_WORDS),
    WithJsonSchema({"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}}),
]


def legal(field: FieldInfo) -> str:
    """What `field` may hold, in words.

    >>> from tfgpt.config import Config
    >>> legal(Config.model_fields["n_layer"])
    'a whole number from 1 to 2147483647'
    """
    kind, metadata, optional = _unwrap(field)
    words = next((rule.words for rule in metadata if isinstance(rule, Legal)), "")
    if not words and get_origin(kind) is Literal:
        words = "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    elif not words and kind is bool:
        words = "true or false"
    elif not words and kind in (int, float):
        words = ("a whole number" if kind is int else "a number") + _range(metadata)
    elif not words and get_origin(kind) is list:
        words = "a list"
    return (words or "a text") + (" (or null)" if optional else "")


def nearest_number(value: Any, field: FieldInfo) -> int | float | None:
    """The legal number nearest to `value`, which may be a number in quotes; None when there is none to name."""
    kind, metadata, _ = _unwrap(field)
    if kind not in (int, float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    low, high = _bounds(metadata)
    if low is not None:
        number = max(number, float(low))
    if high is not None:
        number = min(number, float(high))
    if kind is int:
        return round(number)
    open_end = any(isinstance(rule, Gt) and number <= float(str(rule.gt)) for rule in metadata) or any(
        isinstance(rule, Lt) and number >= float(str(rule.lt)) for rule in metadata
    )
    return None if open_end else number


def _unwrap(field: FieldInfo) -> tuple[Any, list[Any], bool]:
    """The bare type of a field, its rules, and whether null is allowed."""
    kind, metadata, optional = field.annotation, list(field.metadata), False
    while get_args(kind) and (type(None) in get_args(kind) or get_origin(kind) is Annotated):
        arguments = get_args(kind)
        if type(None) in arguments:
            optional, kind = True, next(item for item in arguments if item is not type(None))
        else:
            kind, extra = arguments[0], arguments[1:]
            metadata += [rule for item in extra for rule in (item.metadata if isinstance(item, FieldInfo) else [item])]
    return kind, metadata, optional


def _bounds(metadata: list[Any]) -> tuple[Any, Any]:
    low = next((rule.ge if isinstance(rule, Ge) else rule.gt for rule in metadata if isinstance(rule, (Ge, Gt))), None)
    high = next((rule.le if isinstance(rule, Le) else rule.lt for rule in metadata if isinstance(rule, (Le, Lt))), None)
    return low, high


def _range(metadata: list[Any]) -> str:
    low, high = _bounds(metadata)
    above = any(isinstance(rule, Gt) for rule in metadata)
    below = any(isinstance(rule, Lt) for rule in metadata)
    if low is None:
        return ""
    if high is None:
        return f" above {low}" if above else f" of at least {low}"
    if above or below:
        return f" {'above' if above else 'of at least'} {low} and {'below' if below else 'at most'} {high}"
    return f" from {low} to {high}"
