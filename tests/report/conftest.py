"""A run folder with a metrics.jsonl that a test writes line by line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tfgpt.config import Config


class Run:
    """Appends lines; the clock moves by what a test says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.clock, self.elapsed = folder, 1.7e9, 0.0

    def line(self, event: str, step: int, *, after: float = 0.0, **fields) -> None:
        self.clock += after
        self.raw(json.dumps({"event": event, "step": step, "time": self.clock, **fields}) + "\n")

    def raw(self, text: str) -> None:
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)

    def start(self, step: int = 0, **changes) -> None:
        config = Config(n_embd=64, n_layer=2, n_ctx=32, max_steps=1000, data_path="x", **changes).model_dump()
        self.line(
            "resume" if step else "start", step, config=config, device="2 CPU cores", precision="float32",
            parameters=123_456, tokens_per_step=64, train_tokens=6400, version="9.9", peak_flops=2e9,
        )  # fmt: skip

    def train(self, step: int, losses: list, **fields) -> None:
        seconds = fields.pop("seconds", {"step": 0.9 * len(losses), "data": 0.1 * len(losses)})
        spent = sum(seconds.values())
        self.elapsed += spent
        facts = {
            "loss": losses[-1], "losses": losses, "lr": 1e-3, "grad_norm": 0.5, "tokens": 64 * step, "skipped": 0,
            "tokens_per_second": 64.0, "flops_per_second": 1e9, "peak_share": 0.5,
        }  # fmt: skip
        self.line("train", step, after=spent, seconds=seconds, elapsed=self.elapsed, **{**facts, **fields})

    def eval(self, step: int, loss: float, **fields) -> None:
        facts = {"perplexity": math.exp(loss), "bits_per_byte": loss / 2.5, "tokens": 640, "seconds": 0.0, "best": True}
        self.line("eval", step, loss=loss, **{**facts, **fields})


@pytest.fixture
def new_run(tmp_path):
    """Makes runs by name."""
    return lambda name="mine": Run(tmp_path / name)
