"""One point of `tfgpt bench growth`, in a process of its own: how long a start takes, then step after step."""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

from tfgpt.benchmarks.train_ours import config_of
from tfgpt.benchmarks.training_work import peak_bytes
from tfgpt.quick import skip_pictures

FEWEST, MOST = 3, 200  # timed steps


def main() -> None:
    """Do the work, print one JSON line."""
    skip_pictures()
    work = json.loads(sys.argv[1])
    started = time.perf_counter()

    from tfgpt.model import GPT
    from tfgpt.training import distribution
    from tfgpt.training.step import step_for

    imported = time.perf_counter()
    sizes = work["sizes"]
    config = config_of(sizes, work["precision"], local=work["local"], fixed_attn_block_size=work["span"])
    place = distribution.place(config)
    with place.strategy.scope():
        gpt = GPT(config)
    step = step_for(config, gpt, place)
    built = time.perf_counter()

    rng = np.random.default_rng(0)
    number = 0

    def one() -> float:
        nonlocal number
        ids = rng.integers(0, sizes["n_vocab"], (1, sizes["rows"], sizes["n_ctx"] + 1), dtype=np.int32)
        begun = time.perf_counter()
        losses = step.train(ids[..., :-1].copy(), ids[..., 1:].copy(), None, first=number).losses.tolist()
        assert np.isfinite(losses).all(), f"a loss of {losses}"
        number += 1
        return time.perf_counter() - begun

    first, _ = one(), one()  # the second one warms up
    seconds: list[float] = []
    while len(seconds) < FEWEST or (sum(seconds) < work["seconds"] and len(seconds) < MOST):
        seconds.append(one())
    tokens = sizes["rows"] * sizes["n_ctx"]
    found = {
        "tokens_per_s": round(tokens / statistics.median(seconds), 1),
        "lowest": round(tokens / max(seconds), 1),
        "highest": round(tokens / min(seconds), 1),
        "steps": len(seconds),
        "peak_mb": round(peak_bytes() / 1e6),
        "import_s": round(imported - started, 2),
        "build_s": round(built - imported, 2),
        "compile_s": round(max(0.0, first - statistics.median(seconds)), 2),
        "parameters": gpt.form.parameters,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
