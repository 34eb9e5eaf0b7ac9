"""The loss on held-out text: the same windows every time, weighted by tokens, so that one number means one thing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tfgpt.data.inputs import Inputs
from tfgpt.progress import Progress
from tfgpt.training.step import Step


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    loss: float  # mean nats per token
    tokens: int
    seconds: float
    bits_per_byte: float | None

    @property
    def perplexity(self) -> float:
        """exp of the token-weighted mean loss."""
        return math.exp(min(self.loss, 700.0))

    def __str__(self) -> str:
        bits = "" if self.bits_per_byte is None else f"  {self.bits_per_byte:.4f} bits per byte"
        return f"validation loss {self.loss:.4f}  perplexity {self.perplexity:.2f}{bits}"


def evaluate(step: Step, inputs: Inputs) -> Evaluation:
    """Evaluate the present weights on all batches of `inputs.eval`."""
    assert inputs.eval is not None and inputs.eval.count
    started, total, tokens = time.monotonic(), 0.0, 0
    with Progress("evaluate", total=inputs.eval.count, unit="") as bar:
        for number in range(inputs.eval.count):
            found, counted = step.evaluate(inputs.eval, number)
            total, tokens = total + found, tokens + counted
            bar.update(1)
    loss = total / max(tokens, 1)
    bits = loss / (math.log(2) * inputs.bytes_per_token) if inputs.bytes_per_token else None
    return Evaluation(loss, tokens, time.monotonic() - started, bits)
