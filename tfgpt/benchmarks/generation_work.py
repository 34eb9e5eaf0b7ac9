"""What all sides of `tfgpt bench generate` do: the model, the prompts and how they are timed. No TensorFlow, no PyTorch."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.benchmarks.training_work import peak_bytes

SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_ctx": 1024, "n_vocab": 50257}  # GPT-2 124M
PROMPT, LONG_PROMPT, NEW_TOKENS, TOP_K = 64, 900, 128, 40


@dataclass(frozen=True)
class Work:
    """One contestant's part; travels to its process as JSON."""

    folder: str  # of the weights, a .npy each
    batch: int
    dtype: str
    rounds: int
    threads: int

    @classmethod
    def given(cls) -> Work:
        """The work that this process was started for."""
        return cls(**json.loads(sys.argv[1]))

    def weight(self, name: str) -> np.ndarray:
        """One matrix or vector by its name."""
        return np.load(Path(self.folder) / f"{name}.npy")

    def prompts(self, length: int, *, rows: int) -> list[list[int]]:
        """Made-up prompts, all alike for all contestants."""
        return np.random.default_rng(0).integers(0, SIZES["n_vocab"], (rows, length)).tolist()

    def timed(self, write: Callable[[list[list[int]], int], list[list[int]]]) -> dict[str, object]:
        """Time `write(prompts, tokens)`, which gives the new ids of each prompt; what is compiled is so before."""
        short, long = self.prompts(PROMPT, rows=self.batch), self.prompts(LONG_PROMPT, rows=1)
        write(short, NEW_TOKENS)
        write(long, 2)
        found: dict[str, list[float]] = {"seconds": [], "first": [], "first_long": []}
        for _ in range(self.rounds):
            for key, prompts, tokens in (
                ("seconds", short, NEW_TOKENS),
                ("first", short[:1], 1),
                ("first_long", long, 1),
            ):
                started = time.perf_counter()
                written = write(prompts, tokens)
                found[key].append(time.perf_counter() - started)
                assert [len(ids) for ids in written] == [tokens] * len(prompts), (
                    "another number of tokens than asked for"
                )
        return {key: statistics.median(times) for key, times in found.items()} | {"peak_bytes": peak_bytes()}


def write_weights(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random weights as GPT-2 is initialised, but of a size that gives the model opinions."""
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        value = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        np.save(folder / f"{name}.npy", value + np.float32("ln_" in name and name.endswith("weight")))
