"""Batches of training data in tokens a second: every mode of ours beside a plain tf.data pipeline over the same TFRecords.

Two processes take turns: one of ours, without TensorFlow, and one with the pipelines that a person would write. Both
hand over arrays of NumPy; ours are a pure function of seed and position on top of that, theirs come out of a shuffle buffer.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from tfgpt.benchmarks.input_work import MODES, Work, write_records
from tfgpt.benchmarks.processes import Broken, Result, result_of
from tfgpt.errors import Failure
from tfgpt.machine import cores

TARGET = 3_000_000  # tokens a second in every mode: a hundred times what a processor of two cores can learn from
SIDES = {"tfgpt": "input_ours", "tf.data": "input_tfdata"}


def run(*, n_ctx: int, batch_size: int, tokens: int, seconds: float, repeats: int) -> None:
    """Time both in every mode, print a table and one JSON line."""
    speeds: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
    opening: list[float] = []
    print(f"{tokens:,} tokens in TFRecords, batches of {batch_size} x {n_ctx}, {cores()} threads", flush=True)
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        work = Work(folder=folder, n_ctx=n_ctx, batch_size=batch_size, seconds=seconds)
        write_records(Path(folder), tokens, n_ctx)
        for number in range(repeats):
            for side, module in SIDES.items():
                try:
                    found = result_of(module, asdict(work), threads=cores())
                except Broken as error:
                    raise Failure(f"reading with {side} failed: {error}") from None
                if side == "tfgpt" and not number:
                    opening.append(found["opened_s"])
                for mode, speed in found["tokens_per_s"].items():
                    speeds[side].setdefault(mode, []).append(speed)
                listed = ", ".join(f"{mode} {speed / 1e6:.1f}" for mode, speed in found["tokens_per_s"].items())
                print(f"  run {number + 1} of {repeats}  {side:<8} {listed} M tokens/s", flush=True)
    results = {mode: _row(mode, speeds) for mode in MODES}
    _print_table(results)
    slowest = min(results, key=lambda mode: results[mode]["tokens_per_s"])
    least = results[slowest]["tokens_per_s"]
    print(
        f"  the slowest mode, {slowest}, reads {least / 1e6:.1f} M tokens/s: the target of {TARGET / 1e6:.0f} M is "
        f"{'met' if least >= TARGET else 'missed'}; the first opening took {opening[0]:.1f} s"
    )
    summary: Result = {"bench": "input", "threads": cores(), "repeats": repeats, "target": TARGET, "n_ctx": n_ctx}
    summary |= {"batch_size": batch_size, "tokens": tokens, "opened_s": opening[0], "met": least >= TARGET}
    print(json.dumps(summary | {"results": results}))


def _row(mode: str, speeds: dict[str, dict[str, list[float]]]) -> Result:
    ours, theirs = speeds["tfgpt"][mode], speeds["tf.data"][MODES[mode].beside]
    speed, plain = statistics.median(ours), statistics.median(theirs)
    return {
        "tokens_per_s": round(speed),
        "lowest": round(min(ours)),
        "highest": round(max(ours)),
        "tf_data": round(plain),
        "x_tf_data": round(speed / plain, 2),
    }


def _print_table(results: dict[str, Result]) -> None:
    print(f"  {'M tokens/s':<22} {'tfgpt':>7} {'lowest, highest':>16} {'tf.data':>8} {'x':>6}")
    for mode, row in results.items():
        between = f"{row['lowest'] / 1e6:.1f}, {row['highest'] / 1e6:.1f}"
        print(
            f"  {mode:<22} {row['tokens_per_s'] / 1e6:>7.1f} {between:>16} {row['tf_data'] / 1e6:>8.1f}"
            f" {row['x_tf_data']:>6.1f}"
        )
