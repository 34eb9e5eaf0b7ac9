"""Generation beside others on the CPU: our engine, transformers and CTranslate2 with the same weights and prompts.

Each contestant is a fresh process, one after the other, alternating.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from tfgpt.benchmarks.generation_work import LONG_PROMPT, NEW_TOKENS, PROMPT, SIZES, Work, write_weights
from tfgpt.benchmarks.peaks import read_bandwidth
from tfgpt.benchmarks.processes import Broken, Result, result_of
from tfgpt.errors import Failure, UserError
from tfgpt.machine import cores
from tfgpt.model.shape import Shape

INSTALL = "pip install ctranslate2 torch transformers --extra-index-url https://download.pytorch.org/whl/cpu"
CONTESTANTS = {  # name -> module, type, what it needs
    "tfgpt int8": ("generate_ours", "int8", ()),
    "tfgpt bfloat16": ("generate_ours", "bfloat16", ()),
    "tfgpt float32": ("generate_ours", "float32", ()),
    "CTranslate2 int8": ("generate_ctranslate2", "int8", ("ctranslate2", "torch", "transformers")),
    "CTranslate2 float32": ("generate_ctranslate2", "float32", ("ctranslate2", "torch", "transformers")),
    "transformers float32": ("generate_torch", "float32", ("torch", "transformers")),
}


def run(*, peers: str, batches: list[int], repeats: int, rounds: int) -> None:
    """Time all, print a table and one JSON line."""
    names = [name for name in CONTESTANTS if name.startswith("tfgpt") or peers == "all"]
    missing = sorted({need for name in names for need in CONTESTANTS[name][2] if not importlib.util.find_spec(need)})
    if missing:
        raise UserError(f"peers need {', '.join(missing)}", where="--peers", nearest="none", fix=INSTALL)
    print(f"GPT-2 124M, {PROMPT}-token prompts, {NEW_TOKENS} new tokens, top-k 40, {cores()} threads")
    bandwidth = read_bandwidth()
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s")
    runs: dict[tuple[str, int], list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        write_weights(Path(folder), Shape(**SIZES, attention=("global",) * SIZES["n_layer"]).weights)
        work = Work(folder=folder, batch=1, dtype="float32", rounds=rounds, threads=cores())
        for name in names:
            module, dtype, _ = CONTESTANTS[name]
            if module == "generate_ctranslate2":
                _in_fresh_process(name, module, replace(work, dtype=dtype), "convert")
        for number in range(repeats):
            for batch in batches:
                for name in names:
                    module, dtype, _ = CONTESTANTS[name]
                    found = _in_fresh_process(name, module, replace(work, dtype=dtype, batch=batch))
                    runs.setdefault((name, batch), []).append(found)
                    speed = batch * NEW_TOKENS / found["seconds"]
                    print(
                        f"  run {number + 1} of {repeats}  batch {batch}  {name:<21} {speed:8.1f} tokens/s", flush=True
                    )
    results = {(name, batch): _summary(found, batch, bandwidth) for (name, batch), found in runs.items()}
    _print_table(results, batches)
    summary: Result = {
        "bench": "generate",
        "threads": cores(),
        "repeats": repeats,
        "read_bytes_per_s": round(bandwidth),
    }
    if peers == "all":
        summary |= _compare(results, batches)
    print(json.dumps(summary | {"results": {f"{name}, batch {batch}": row for (name, batch), row in results.items()}}))


def _in_fresh_process(name: str, module: str, work: Work, *more: str) -> Result:
    try:
        return result_of(module, asdict(work), *more, threads=work.threads)
    except Broken as error:
        raise Failure(f"{name} failed: {error}", where=f"tfgpt.benchmarks.{module}") from None


def _summary(runs: list[Result], batch: int, bandwidth: float) -> Result:
    """One contestant with one batch over all its runs."""
    seconds = statistics.median(found["seconds"] for found in runs)
    row: Result = {
        "tokens_per_s": round(batch * NEW_TOKENS / seconds, 1),
        "best": round(batch * NEW_TOKENS / min(found["seconds"] for found in runs), 1),
        "first_ms": round(1e3 * statistics.median(found["first"] for found in runs), 1),
        "first_long_ms": round(1e3 * statistics.median(found["first_long"] for found in runs), 1),
        "peak_mb": round(max(found["peak_bytes"] for found in runs) / 1e6),
        "with": runs[0]["with"],
    }
    if "bytes_per_step" in runs[0]:
        row["of_memory_limit"] = round(runs[0]["bytes_per_step"] * NEW_TOKENS / seconds / bandwidth, 3)
    return row


def _print_table(results: dict[tuple[str, int], Result], batches: list[int]) -> None:
    for batch in batches:
        print(
            f"  batch {batch:<16} {'tokens/s':>9} {'best':>8} {'first token, ms':>16}"
            f" {f'after {LONG_PROMPT}, ms':>14} {'MB':>7} {'of limit':>9}"
        )
        for (name, size), row in results.items():
            if size == batch:
                share = f"{row['of_memory_limit']:.0%}" if "of_memory_limit" in row else ""
                print(
                    f"  {name:<22} {row['tokens_per_s']:>9,.1f} {row['best']:>8,.1f} {row['first_ms']:>16,.1f}"
                    f" {row['first_long_ms']:>14,.1f} {row['peak_mb']:>7,} {share:>9}   {row['with']}"
                )


def _compare(results: dict[tuple[str, int], Result], batches: list[int]) -> Result:
    """Ours as multiples of the others'."""
    found: Result = {}
    for batch in batches:
        speed = {name: row["tokens_per_s"] for (name, size), row in results.items() if size == batch}
        best = max(speed["CTranslate2 int8"], speed["CTranslate2 float32"])
        ours = results["tfgpt int8", batch]
        theirs = results["transformers float32", batch]
        found[f"batch {batch}"] = {
            "int8_x_best_ctranslate2": round(speed["tfgpt int8"] / best, 2),
            "float32_x_ctranslate2_float32": round(speed["tfgpt float32"] / speed["CTranslate2 float32"], 2),
            "int8_x_transformers": round(speed["tfgpt int8"] / speed["transformers float32"], 2),
            "first_x_transformers": round(theirs["first_ms"] / ours["first_ms"], 2),
            "first_long_x_transformers": round(theirs["first_long_ms"] / ours["first_long_ms"], 2),
        }
        print(f"  batch {batch}: " + ", ".join(f"{name} {value}" for name, value in found[f"batch {batch}"].items()))
    return found
