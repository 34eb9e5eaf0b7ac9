"""Training beside others: `tfgpt train`'s own step, transformers' GPT-2 under PyTorch, keras-hub's under fit, on the CPU.

Each contestant is a fresh process, one after the other, alternating. All start from the same weights, see the same tokens
and do the same work: forward, backward, clip by the global norm 1.0, AdamW. That their losses agree is checked.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import asdict

from tfgpt.benchmarks import peaks
from tfgpt.benchmarks.peers import PEERS, chosen
from tfgpt.benchmarks.processes import Broken, Result, result_of
from tfgpt.benchmarks.training_work import SHAPES, STEPS, Work
from tfgpt.errors import Failure
from tfgpt.machine import cores

AGREE = 1e-2  # largest relative difference between the losses of a step
TIMED_CALLS = 5
HOPELESS = 0.02  # of what others multiply
OURS = "tfgpt"
Found = dict[str, list[Result]]  # by contestant, what each of its processes said


def run(*, shapes: list[str], precisions: list[str], peers: list[str], steps: int | None, repeats: int) -> None:
    """Time all in every shape and precision, print tables and one JSON line.

    steps  timed ones in a run; None: as many as suit the shape
    peers  names, "all" for those that are installed, or "none"
    """
    names, left_out = chosen(peers)
    for name, why in left_out.items():
        print(f"without {name}: it needs {why}")
    kinds = list(peaks.PRECISIONS) if "all" in precisions else list(dict.fromkeys(precisions))
    limits = peaks.measure(kinds, repeats=repeats)
    patient = "all" in peers  # then one that fails is left out, as one that is not installed is
    runs = []
    for shape in _shapes(shapes):
        for precision in kinds:
            able = _able(names, precision, limits, left_out)
            found = _compete(shape, precision, able, steps or STEPS[shape], repeats, left_out if patient else None)
            runs.append(_judged(shape, precision, found, limits))
    summary = {"bench": "train", "threads": cores(), "repeats": repeats, "peaks": limits, "runs": runs}
    print(json.dumps(summary | ({"left_out": left_out} if left_out else {})))


def _able(names: list[str], precision: str, limits: Result, left_out: dict[str, str]) -> list[str]:
    """Those of the peers that have products of this precision on this machine: without, a step may take an hour."""
    peaks = {name: limits["flops_per_s"][_library(name)][precision] for name in [OURS, *names]}
    able = [name for name in names if peaks[name] >= HOPELESS * max(peaks.values())]
    for name in set(names) - set(able):
        left_out[f"{name}, {precision}"] = f"{peaks[name] / 1e9:.1f} GFLOP/s is all that it multiplies here"
        print(f"without {name} in {precision}: {left_out[f'{name}, {precision}']}")
    return able


def _library(name: str) -> str:
    """Whose products a contestant uses."""
    return "torch" if name.startswith("torch") else "tensorflow"


def _shapes(asked: list[str]) -> list[str]:
    if "all" in asked:
        return list(STEPS)
    return list(dict.fromkeys("L" if name == "124M" else name for name in asked))


def _compete(
    shape: str, precision: str, peers: list[str], steps: int, repeats: int, left_out: dict[str, str] | None
) -> tuple[Work, Found]:
    calls = min(TIMED_CALLS, steps)
    runs: Found = {name: [] for name in [OURS, *peers]}
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as folder:
        work = Work(
            sizes=SHAPES[shape],
            precision=precision,
            calls=calls,
            steps_per_call=steps // calls,
            compiled=False,
            weights=folder,
            threads=cores(),
        )
        print(f"\n{_title(shape)}, {work.tokens_per_step():,} tokens a step, {precision}, {work.threads} threads")
        for number in range(repeats):
            for name in list(runs):
                found = _one(name, work, f"{shape} {precision}", left_out)
                if found is None:
                    del runs[name]
                    continue
                runs[name].append(found)
                speed = work.tokens_per_step() / statistics.median(found["seconds_per_step"])
                print(f"  run {number + 1} of {repeats}  {name:<14} {speed:10,.0f} tokens/s", flush=True)
    return work, runs


def _one(name: str, work: Work, where: str, left_out: dict[str, str] | None) -> Result | None:
    """One run of one contestant; None if it failed and others can go on without it."""
    peer = PEERS.get(name)
    given = asdict(work) | {"compiled": name == "torch.compile"}
    try:
        return result_of(peer.module if peer else "train_ours", given, threads=work.threads)
    except Broken as error:
        if peer is None or left_out is None:
            raise Failure(f"{name} failed: {error}", where=where, fix=peer.fix if peer else "") from None
        left_out[f"{name}, {where}"] = str(error)
        print(f"  without {name}: it failed: {error}", flush=True)
        return None


def _title(shape: str) -> str:
    sizes = SHAPES[shape]
    size = f"{sizes['n_layer']} blocks of width {sizes['n_embd']}, context {sizes['n_ctx']}"
    return f"{shape}: {size}, vocabulary {sizes['n_vocab']:,}"


def _judged(shape: str, precision: str, competed: tuple[Work, Found], limits: Result) -> Result:
    """The table of one shape and precision, and what the last line says of it."""
    work, runs = competed
    flops = runs[OURS][0]["flops_per_token"]
    results = {}
    for name, found in runs.items():
        results[name] = _summary(found, work, flops, limits["flops_per_s"][_library(name)][precision])
    _print_table(results)
    beside = {name: _compare(runs[OURS][0], runs[name][0], results, name) for name in runs if name != OURS}
    steps = work.calls * work.steps_per_call
    judged: Result = {"shape": shape, "precision": precision, "steps": steps}
    return judged | {"flops_per_token": flops, "results": results, "beside": beside}


def _summary(runs: list[Result], work: Work, flops_per_token: float, peak: float) -> Result:
    """One contestant over all its runs."""
    speeds = [work.tokens_per_step() / seconds for found in runs for seconds in found["seconds_per_step"]]
    speed = statistics.median(speeds)
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


def _compare(ours: Result, theirs: Result, results: dict[str, Result], name: str) -> Result:
    """Ratios, and whether both computed the same thing."""
    us, them = results[OURS], results[name]
    each = [abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    apart = max(each)
    speed, memory = us["tokens_per_s"] / them["tokens_per_s"], us["peak_mb"] / them["peak_mb"]
    print(f"  {speed:.2f} x as fast as {name} in {memory:.2f} x the memory; losses differ by at most {apart:.1e}")
    if not all(difference <= AGREE for difference in each):  # nor is one that is no number
        raise Failure(
            f"the losses of the same steps differ by {apart:.1%}: the two did not do the same work",
            where=f"ours {ours['losses']}, {name} {theirs['losses']}",
        )
    return {"x_speed": round(speed, 3), "x_memory": round(memory, 3), "losses_differ": apart}
