"""tfgpt: train a GPT of your own with TensorFlow 2 and Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfgpt.generator import Generator

__version__ = "0.1.0"
__all__ = ["Generator", "__version__"]


def __getattr__(name: str) -> Any:
    # What needs NumPy, and TensorFlow in the end, is imported by those who ask for it.
    if name == "Generator":
        from tfgpt.generator import Generator

        return Generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
