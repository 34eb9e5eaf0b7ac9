"""The network: GPT-2 in Keras alone, so that it runs on every backend that Keras has."""

from tfgpt.model.gpt import GPT

__all__ = ["GPT"]
