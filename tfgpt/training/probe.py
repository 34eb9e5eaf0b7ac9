"""Measure instead of guess: a few real training steps on random tokens, timed, and what they take of the memory.

`measure` does it in a process of its own, so that its peak is that of training and of nothing else; the estimates of
`tfgpt.training.estimates` are held against it in the tests, and `tfgpt check --measure` shows both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfgpt.config import Config
from tfgpt.errors import Failure
from tfgpt.quick import skip_pictures

if TYPE_CHECKING:
    from tfgpt.training.step import Step


@dataclass(frozen=True)
class Timing:
    """Seconds of the first step, which compiles, and of one of those after it (the fastest)."""

    compile: float
    step: float


@dataclass(frozen=True)
class Measured:
    """What a training process took, in bytes: `runtime` before there was a model, `peak` at its height."""

    runtime: int
    peak: int
    device_peak: int | None  # of the first GPU's memory
    timing: Timing


def timed(step: Step, *, steps: int = 3) -> Timing:
    """Compile one step of this run and time a few more, on random tokens. The weights are changed by it.

    >>> timed(step_for(config, gpt, place)).step                           # doctest: +SKIP
    0.21
    """
    config = step.config
    generator = np.random.default_rng(0)
    rows = len(range(*step.place.rows(config.train_batch_size).indices(config.train_batch_size)))
    seconds = []
    for number in range(1 + steps):
        ids = generator.integers(0, step.gpt.form.n_vocab, (1, rows, config.n_ctx + 1), np.int32)
        segments = np.zeros((1, rows, config.n_ctx), np.int32) if config.document_mask else None
        started = time.perf_counter()
        step.train(ids[..., :-1].copy(), ids[..., 1:].copy(), segments, first=number)
        seconds.append(time.perf_counter() - started)
    return Timing(compile=max(seconds[0] - min(seconds[1:]), 0.0), step=min(seconds[1:]))


def measure(config: Config, *, n_vocab: int, steps: int = 3, timeout: float | None = None) -> Measured:
    """Train `steps` steps in a process of its own and see what it takes.

    >>> measure(config, n_vocab=50257).peak                            # doctest: +SKIP
    5034872832
    """
    settings = json.dumps([config.model_dump(mode="json"), n_vocab, steps])
    # What this process has set up for its own TensorFlow (several virtual devices, say) is not handed on.
    command = [sys.executable, "-m", "tfgpt.training.probe"]
    done = subprocess.run(command, input=settings, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        what = "it was ended, most likely for want of memory" if done.returncode == -9 else last
        raise Failure(f"training could not be measured: {what}", fix="a smaller train_batch_size, or recompute")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(found["runtime"], found["peak"], found["device_peak"], Timing(**found["timing"]))


def resident() -> tuple[int, int] | None:
    """Bytes of memory that this process holds, and held at most; None where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            found = dict(line.split(":", 1) for line in lines)
        # Not getrusage: its maximum begins with that of the parent process.
        return tuple(int(found[key].split()[0]) << 10 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        most *= 1 if sys.platform == "darwin" else 1 << 10
        return most, most
    except ImportError:
        return None


def device_peak(kind: str) -> int | None:
    """Bytes that this process took of the first GPU's memory at most."""
    if kind != "GPU":
        return None
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _main() -> None:
    """The measured process: settings come in as JSON, the findings go out as JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    skip_pictures()
    values, n_vocab, steps = json.load(sys.stdin)
    import tensorflow as tf

    from tfgpt.model import GPT
    from tfgpt.training import distribution
    from tfgpt.training.step import step_for

    config = Config(**values)
    place = distribution.place(config)
    tf.constant(0.0)  # brings the devices up
    runtime = (resident() or (0, 0))[0]
    with place.strategy.scope():
        gpt = GPT(config, n_vocab=n_vocab)
    timing = timed(step_for(config, gpt, place), steps=steps)
    found: dict[str, Any] = {"runtime": runtime, "peak": (resident() or (0, 0))[1], "timing": asdict(timing)}
    print(json.dumps({**found, "device_peak": device_peak(place.kind)}))


if __name__ == "__main__":
    _main()
