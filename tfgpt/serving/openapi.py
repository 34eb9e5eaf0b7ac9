"""The OpenAPI document of the server, written beside the rules it states."""

from __future__ import annotations

from typing import Any

from tfgpt import __version__
from tfgpt.serving.asking import MOST

NUMBER = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 100},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "repetition_penalty": {"type": "number", "minimum": 0.01, "maximum": 100},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    "stop": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1000}},
}
ERROR = {"description": "What is wrong, and what would be right", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}}}}  # fmt: skip
CHAT_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    n = {"type": "integer", "minimum": 1, "maximum": MOST}
    common = NUMBER | {
        "model": {"type": "string"},
        "n": n,
        "stream": {"type": "boolean"},
        "max_tokens": {"type": "integer", "minimum": 1},
    }
    completion = common | {
        "prompt": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    }
    chat = common | {"messages": {"type": "array", "items": CHAT_MESSAGE, "minItems": 1}}
    invocation = {k: v for k, v in NUMBER.items()} | {"model_key": {"type": "string"}, "raw_text": {"type": "string"}}
    paths: dict[str, Any] = {
        path: {"get": _operation(words, kind)}
        for path, words, kind in (
            ("/ping", "Pong!", "text/plain"),
            ("/models/list", "The models and how often each was asked", "application/json"),
            ("/gputemp", "Degrees of each GPU", "application/json"),
            ("/v1/models", "The models", "application/json"),
            ("/health", "The process answers", "application/json"),
            ("/ready", "A model is in memory", "application/json"),
            ("/metrics", "For Prometheus", "text/plain"),
        )
    }
    for path, words, properties, required, kind in (
        ("/invocations", "Continue a text", invocation, ["raw_text"], "text/plain"),
        ("/prime", "Load a model", {"model_key": {"type": "string"}}, [], "text/plain"),
        ("/v1/completions", "Continue texts", completion, [], "application/json"),
        ("/v1/chat/completions", "Go on with a conversation", chat, ["messages"], "application/json"),
    ):
        schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        content = {"application/json": {"schema": schema}}
        paths[path] = {"post": _operation(words, kind) | {"requestBody": {"required": True, "content": content}}}
    about = {"title": "tfgpt", "version": __version__, "description": "Models trained with tfgpt, served."}
    security = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": security}


def _operation(words: str, kind: str) -> dict[str, Any]:
    good = {"description": words, "content": {kind: {}, "text/event-stream": {}}}
    wrong = {str(code): ERROR for code in (400, 401, 404, 408, 413, 429, 500, 503)}
    return {"summary": words, "responses": {"200": good} | wrong}
