"""Time to a loss: our preset `shakespeare_char_cpu` beside nanoGPT's recipe for a CPU, each as the whole command.

Both start with the bare text and a fresh process: imports, data, compilation, training, evaluations and saving all count.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tfgpt.benchmarks.peers import require
from tfgpt.errors import Failure, UserError
from tfgpt.machine import cores

PRESET = "shakespeare_char_cpu"
TARGET = 1.88  # what nanoGPT's README says its recipe reaches
NANOGPT_STEPS = 2000

Result = dict[str, Any]


def run(*, text: str, steps: int | None, repeats: int, peer: bool) -> None:
    """Time both, print a line each and one JSON line; `steps` cuts both short."""
    path = Path(text)
    if not path.is_file():
        raise UserError(f"{text} is not a file", where="--text", fix="tfgpt download tinyshakespeare, or --text FILE")
    if peer:
        require(("torch",))
    contestants = {"tfgpt": _ours} | ({"nanoGPT's recipe": _theirs} if peer else {})
    runs: dict[str, list[Result]] = {name: [] for name in contestants}
    print(f"{path.name}, {path.stat().st_size:,} bytes; {cores()} threads; the whole command of each")
    for number in range(repeats):
        for name, command in contestants.items():
            found = command(path, steps)
            runs[name].append(found)
            print(
                f"  run {number + 1} of {repeats}  {name:<17} {found['seconds']:6.1f} s  {found['steps']:5,} steps"
                f"  validation loss {found['loss']:.4f}",
                flush=True,
            )
    results = {
        name: {key: statistics.median(x[key] for x in found) for key in found[0]} for name, found in runs.items()
    }
    summary: Result = {"bench": "shakespeare", "threads": cores(), "repeats": repeats, "target": TARGET}
    if peer:
        share = results["tfgpt"]["seconds"] / results["nanoGPT's recipe"]["seconds"]
        summary["of_their_time"] = round(share, 3)
        print(f"  tfgpt takes {share:.2f} of the time of nanoGPT's recipe")
    print(json.dumps(summary | {"results": results}))


def _ours(text: Path, steps: int | None) -> Result:
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        model = Path(folder) / "model"
        settings = [f"text={text.resolve()}", f"model_path={model}", f"data_path={folder}/data"]
        if steps is not None:
            settings += [f"max_steps={steps}", f"train_steps={steps}", f"warmup_steps={min(40, steps // 2)}"]
        words = [word for setting in settings for word in ("--set", setting)]
        seconds, _ = _timed("tfgpt", ["tfgpt", "train", "--model", PRESET, *words])
        lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["event"] == "eval"][-1]
    return {"seconds": seconds, "steps": last["step"], "loss": last["loss"]}


def _theirs(text: Path, steps: int | None) -> Result:
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        words = [str(text), str(steps or NANOGPT_STEPS), str(cores()), folder]
        seconds, said = _timed("nanoGPT's recipe", ["tfgpt.benchmarks.shakespeare_torch", *words])
    found = json.loads(said.splitlines()[-1])
    return {"seconds": seconds, "steps": found["steps"], "loss": found["loss"]}


def _timed(name: str, words: list[str]) -> tuple[float, str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": str(cores())}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode:
        last = re.sub(r"\s+", " ", done.stderr.strip()[-300:])
        raise Failure(f"{name} failed: {last or f'exit code {done.returncode}'}", where=" ".join(words[:3]))
    return seconds, done.stdout
