"""From the JSON of a request to what a model is asked for; every mistake is a UserError that says the legal range."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfgpt.errors import UserError, nearest
from tfgpt.generation.options import LEGAL, Options

LARGEST = 4 << 20  # bytes of a request
MOST = 128  # texts of one request
# What the oldest server asked of every text; its penalty of 0.85 multiplied where today's divides.
SEED = {"length": 120, "temperature": 0.3, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1 / 0.85}
OURS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "length",
    "seed",
    "stop",
    "ignore_eot",
    "logit_bias",
)
# What today's clients send by themselves, and what it may be where nothing of it can be done.
EMPTY: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "suffix": (None, ""),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
UNUSED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key")


class TooLarge(UserError):
    """More than this server takes in one request."""


@dataclass(frozen=True)
class Ask:
    """What one request wants: texts after each prompt, all with the same options."""

    key: str
    prompts: list[str | list[int]]
    options: dict[str, Any]
    n: int = 1
    stream: bool = False
    usage: bool = False  # a stream ends with the counts
    echo: bool = False
    logprobs: int | None = None


def read(body: bytes) -> dict[str, Any]:
    """The object that a request holds."""
    if len(body) > LARGEST:
        raise TooLarge(f"a request has at most {LARGEST >> 20} MiB", where="body")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"the body is not JSON: {error}", where="body", fix='send {"...": ...} as application/json'
        ) from None
    if not isinstance(found, dict):
        raise UserError("the body is not a JSON object", where="body", fix='send {"...": ...}')
    return found


def invocation(values: Mapping[str, Any], *, longest: int) -> Ask:
    """POST /invocations, as dixie had it: {"model_key", "raw_text"}, and today any option beside them."""
    known = ("model_key", "raw_text", *OURS)
    _require_known(values, known)
    text = values.get("raw_text")
    if not isinstance(text, str):
        raise UserError("raw_text must be a text", where="raw_text", fix='send {"model_key": "...", "raw_text": "..."}')
    if len(text) > 1 and text.endswith("\n"):
        text = text[:-1]
    options = SEED | {name: values[name] for name in OURS if values.get(name) is not None}
    return Ask(_text(values, "model_key", "chatbot"), [text], _checked(options, longest))


def completion(values: Mapping[str, Any], *, longest: int) -> Ask:
    """POST /v1/completions."""
    prompt = values.get("prompt")
    if prompt is None:
        prompt = ""
    prompts: list[Any] = [prompt] if isinstance(prompt, str) or _is_ids(prompt) else prompt
    good = isinstance(prompts, list) and prompts and all(isinstance(one, str) or _is_ids(one) for one in prompts)
    if not good:
        raise UserError("prompt must be a text, a list of texts, a list of ids or a list of such lists", where="prompt")
    count = values.get("logprobs")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 5):
        raise UserError(f"logprobs must be a whole number from 0 to 5, found {count!r:.60}", where="logprobs")
    more = ("model", "prompt", "n", "stream", "stream_options", "max_tokens", "echo", "logprobs", *OURS)
    options = _options(values, more, longest=longest, length=values.get("max_tokens"), default=16)
    if count is not None:
        options["logprobs"] = True
    return _ask(values, prompts, options, echo=_flag(values, "echo"), logprobs=count)


def chat(
    values: Mapping[str, Any], template: Callable[[list[dict[str, str]]], tuple[str, list[str]]], *, longest: int
) -> Ask:
    """POST /v1/chat/completions; `template` makes the prompt of the messages, and says where an answer stops."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError("messages must be a list of at least one message", where="messages")
    prompt, stops = template([_message(one, i) for i, one in enumerate(messages)])
    more = ("model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "logprobs",
            "top_logprobs", *OURS)  # fmt: skip
    length = values.get("max_completion_tokens") or values.get("max_tokens")
    options = _options(values, more, longest=longest, length=length, default=256)
    options["stop"] = [*options.get("stop", ()), *stops]
    wanted = _flag(values, "logprobs")
    if values.get("top_logprobs") not in (None, 0):
        raise UserError("top_logprobs cannot be more than 0 here", where="top_logprobs", nearest="0")
    if wanted:
        options["logprobs"] = True
    return _ask(values, [prompt], options, logprobs=0 if wanted else None)


def _message(value: Any, number: int) -> dict[str, str]:
    where = f"messages.{number}"
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise UserError('a message is {"role": ..., "content": ...}', where=where)
    content = value.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UserError("content must be a text: these models read nothing else", where=where)
    if value["role"] not in ("system", "developer", "user", "assistant"):
        raise UserError(f'there is no role "{value["role"]:.60}"', where=where, nearest="system, user or assistant")
    return {"role": value["role"], "content": content}


def _ask(values: Mapping[str, Any], prompts: list[Any], options: dict[str, Any], **more: Any) -> Ask:
    n = values.get("n")
    n = 1 if n is None else n
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n * len(prompts) <= MOST or n < 1:
        raise UserError(f"n times the number of prompts must be from 1 to {MOST}", where="n")
    stream_options = values.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise UserError("stream_options must be an object", where="stream_options")
    usage = bool((stream_options or {}).get("include_usage"))
    return Ask(_text(values, "model", ""), prompts, options, n=n, stream=_flag(values, "stream"), usage=usage, **more)


def _options(
    values: Mapping[str, Any], known: tuple[str, ...], *, longest: int, length: Any, default: int
) -> dict[str, Any]:
    _require_known(values, (*known, *EMPTY, *UNUSED))
    for name, legal in EMPTY.items():
        if values.get(name) not in legal:
            raise UserError(f"{name} is not something this server can do", where=name, fix="leave it out")
    options = {name: values[name] for name in OURS if values.get(name) is not None}
    options.setdefault("length", default if length is None else length)
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    return _checked(options, longest)


def _checked(options: dict[str, Any], longest: int) -> dict[str, Any]:
    length = options.get("length")
    if isinstance(length, int) and not isinstance(length, bool) and length > longest:
        raise UserError(f"at most {longest:,} new tokens can be asked for", where="length", nearest=str(longest))
    Options.of({name: value for name, value in options.items() if name in LEGAL})
    return options


def _require_known(values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise UserError(f'unknown field "{name:.60}"', where=name[:60], nearest=nearest(name[:60], list(known)))


def _text(values: Mapping[str, Any], name: str, default: str) -> str:
    found = values.get(name, default)
    if not isinstance(found, str):
        raise UserError(f"{name} must be a text, found {found!r:.60}", where=name)
    return found


def _flag(values: Mapping[str, Any], name: str) -> bool:
    found = values.get(name)
    if found is None:
        return False
    if not isinstance(found, bool):
        raise UserError(f"{name} must be true or false, found {found!r:.60}", where=name)
    return found


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    )
