"""Training beside PyTorch: `tfgpt train`'s own step, and transformers' GPT-2 with torch.optim.AdamW, on the CPU.

Each contestant is a fresh process, one after the other, alternating. Both start from the same weights, see the same tokens
and do the same work: forward, backward, clip by the global norm 1.0, AdamW. That their losses agree is checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from tfgpt.benchmarks.training_work import SHAPES, Work
from tfgpt.errors import Failure, UserError
from tfgpt.machine import cores

AGREE = 1e-2  # largest relative difference between the losses of a step
TIMED_CALLS = 5
INSTALL = "pip install {} --extra-index-url https://download.pytorch.org/whl/cpu"

Result = dict[str, Any]


def run(*, shape: str, precision: str, steps: int, repeats: int, peer: str) -> None:
    """Time both, print a table and one JSON line."""
    if peer != "none":
        require_peer(["torch", "transformers"])
    calls = min(TIMED_CALLS, steps)
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        work = Work(
            sizes=SHAPES[shape],
            precision=precision,
            calls=calls,
            steps_per_call=steps // calls,
            compiled=peer == "torch.compile",
            weights=folder,
            threads=cores(),
        )
        print(f"GPT-2 {shape}, {work.tokens_per_step():,} tokens a step, {precision}, {work.threads} threads")
        contestants = {"tfgpt": "train_ours"} | ({peer: "train_torch"} if peer != "none" else {})
        runs: dict[str, list[Result]] = {name: [] for name in contestants}
        for number in range(repeats):
            for name, module in contestants.items():
                found = _in_fresh_process(name, module, work)
                runs[name].append(found)
                speed = work.tokens_per_step() / statistics.median(found["seconds_per_step"])
                print(f"  run {number + 1} of {repeats}  {name:<14} {speed:10,.0f} tokens/s", flush=True)
    results = {name: _summary(found, work, runs["tfgpt"][0]["flops_per_token"]) for name, found in runs.items()}
    _print_table(results)
    summary = {"bench": "train", "shape": shape, "precision": precision, "threads": work.threads, "repeats": repeats}
    summary["steps"] = work.calls * work.steps_per_call
    if peer != "none":
        summary |= _compare(runs["tfgpt"][0], runs[peer][0], results["tfgpt"], results[peer])
    print(json.dumps(summary | {"results": results}))


def require_peer(packages: list[str]) -> None:
    """Say how to install what is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the peer needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed",
            where="--peer",
            nearest="none",
            fix=INSTALL.format(" ".join(packages)),
        )


def _in_fresh_process(name: str, module: str, work: Work) -> Result:
    """What the last line of the contestant's output says."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(work.threads),
        "CUDA_VISIBLE_DEVICES": "-1",  # memory and threads are compared, which a GPU would make meaningless
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", f"tfgpt.benchmarks.{module}", json.dumps(asdict(work))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        # A traceback's last line that is not indented names the error, and what follows may say more.
        lines = done.stderr.strip().splitlines()
        last = max((i for i, line in enumerate(lines) if line[:1].strip()), default=0)
        said = " ".join(line.strip() for line in lines[last : last + 2])
        raise Failure(
            f"{name} failed: {said or f'exit code {done.returncode}'}",
            where=" ".join(command[1:3]),
            fix="torch.compile needs a C++ compiler (apt install g++), or --peer torch"
            if module == "train_torch"
            else "",
        )
    return json.loads(done.stdout.splitlines()[-1])


def _summary(runs: list[Result], work: Work, flops_per_token: float) -> Result:
    """One contestant over all its runs."""
    speeds = [work.tokens_per_step() / seconds for found in runs for seconds in found["seconds_per_step"]]
    speed = statistics.median(speeds)
    peak = max(found["peak_flops"] for found in runs)
    return {
        "tokens_per_s": round(speed, 1),
        "lowest": round(min(speeds), 1),
        "highest": round(max(speeds), 1),
        "gflops_per_s": round(speed * flops_per_token / 1e9, 1),
        "of_matrix_peak": round(speed * flops_per_token / peak, 3),
        "compile_s": round(statistics.median(found["compile_s"] for found in runs), 1),
        "peak_mb": round(max(found["peak_bytes"] for found in runs) / 1e6),
        "loss": runs[0]["losses"][-1],
        "with": runs[0]["with"],
    }


def _print_table(results: dict[str, Result]) -> None:
    print(
        f"  {'':<14} {'tokens/s':>10} {'lowest, highest':>19} {'GFLOP/s':>8} {'of peak':>8} {'MB':>7} {'compile s':>10}"
    )
    for name, row in results.items():
        between = f"{row['lowest']:,.0f}, {row['highest']:,.0f}"
        print(
            f"  {name:<14} {row['tokens_per_s']:>10,.0f} {between:>19} {row['gflops_per_s']:>8.0f}"
            f" {row['of_matrix_peak']:>8.0%} {row['peak_mb']:>7,} {row['compile_s']:>10.1f}   {row['with']}"
        )


def _compare(ours: Result, theirs: Result, us: Result, them: Result) -> Result:
    """Ratios, and whether both computed the same thing."""
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))
    speed, memory = us["tokens_per_s"] / them["tokens_per_s"], us["peak_mb"] / them["peak_mb"]
    print(f"  tfgpt is {speed:.2f} x as fast in {memory:.2f} x the memory; losses differ by at most {apart:.1e}")
    if apart > AGREE:
        raise Failure(
            f"the losses of the same steps differ by {apart:.1%}: the two did not do the same work",
            where=f"ours {ours['losses']}, theirs {theirs['losses']}",
        )
    return {"x_speed": round(speed, 3), "x_memory": round(memory, 3), "losses_differ": apart}
