"""The network: GPT-2 in Keras alone, so that it runs on every backend that Keras has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgpt.model.gpt import GPT

__all__ = ["GPT"]


def __getattr__(name: str) -> Any:
    # The shape of a model is asked for where nobody needs Keras, which takes seconds to import.
    if name == "GPT":
        from tfgpt.model.gpt import GPT

        return GPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
