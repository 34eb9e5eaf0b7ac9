"""What all sides of `tfgpt bench train` do: sizes, tokens, the order of steps and how they are timed. No TensorFlow, no PyTorch."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPES = {
    "S": {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_ctx": 64, "n_vocab": 65, "rows": 12},
    "M": {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_ctx": 256, "n_vocab": 65, "rows": 16},
    "L": {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_ctx": 1024, "n_vocab": 50257, "rows": 1},  # GPT-2 124M
}
SHAPES["124M"] = SHAPES["L"]  # by its size
STEPS = {"S": 200, "M": 20, "L": 5}  # timed ones in a run
OPTIMIZER = {"lr": 3e-4, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip": 1.0}


@dataclass(frozen=True)
class Work:
    """One benchmark; travels to its processes as JSON."""

    sizes: dict[str, int]
    precision: str
    calls: int  # timed one by one
    steps_per_call: int
    compiled: bool
    weights: str  # folder of the first weights, a .npy each: ours writes, others read
    threads: int

    @classmethod
    def given(cls) -> Work:
        """The work that this process was started for."""
        return cls(**json.loads(sys.argv[1]))

    def tokens(self) -> np.ndarray:
        """[steps, rows, n_ctx + 1] int32, as frequent as words are (Zipf), so that there is something to learn."""
        share = 1.0 / (np.arange(self.sizes["n_vocab"]) + 2.7)
        shape = (sum(self.plan()), self.sizes["rows"], self.sizes["n_ctx"] + 1)
        return np.random.default_rng(0).choice(len(share), shape, p=share / share.sum()).astype("int32")

    def plan(self) -> list[int]:
        """Steps of each call: one that compiles, one of full length that warms up, then the timed ones."""
        return [1] + [self.steps_per_call] * (1 + self.calls)

    def tokens_per_step(self) -> int:
        """Tokens that one update learns from."""
        return self.sizes["rows"] * self.sizes["n_ctx"]

    def timed(self, call: Callable[[np.ndarray, np.ndarray, int], list[float]]) -> dict[str, object]:
        """Make all calls: `call(ids, labels, first step)` gives the losses of its steps, mean nats a token."""
        tokens, first = self.tokens(), 0
        losses: list[float] = []
        seconds: list[float] = []
        for count in self.plan():
            part = tokens[first : first + count]
            ids, labels = np.ascontiguousarray(part[..., :-1]), np.ascontiguousarray(part[..., 1:])
            started = time.perf_counter()
            losses += call(ids, labels, first)
            seconds.append((time.perf_counter() - started) / count)
            first += count
        per_step = seconds[2:]
        compiling = max(0.0, seconds[0] - statistics.median(per_step))
        found = {"losses": losses, "seconds_per_step": per_step, "compile_s": compiling, "peak_bytes": peak_bytes()}
        return dict(found)


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it does not begin with what the parent held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
