"""What the machine can do at best: the product of two matrices in each library, and reading memory.

Speeds of training are shares of the first, speeds of generation shares of the second.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfgpt.benchmarks.peers import installed
from tfgpt.benchmarks.processes import Broken, Result, result_of
from tfgpt.errors import Failure
from tfgpt.machine import cores

LIBRARIES = ("tensorflow", "torch")
PRECISIONS = ("float32", "bfloat16")


def run(*, repeats: int) -> None:
    """Measure, print a table and one JSON line."""
    found = measure(list(PRECISIONS), repeats=repeats)
    print(json.dumps({"bench": "peaks", "threads": cores(), "repeats": repeats} | found))


def measure(precisions: list[str], *, repeats: int) -> Result:
    """The best of all runs: FLOP/s by library and precision, bytes a second of memory read. Prints what it finds."""
    best: dict[str, dict[str, float]] = {name: {} for name in LIBRARIES if installed(name)}
    memory = 0.0
    for _ in range(repeats):
        for name, rates in best.items():
            work = {"library": name, "precisions": precisions, "threads": cores()}
            try:
                found = result_of("peaks_of", work, threads=cores())
            except Broken as error:
                raise Failure(f"the matrix product of {name} failed: {error}") from None
            for precision, rate in found.items():
                rates[precision] = max(rates.get(precision, 0.0), rate)
        memory = max(memory, read_bandwidth())
    for precision in precisions:
        rates = ", ".join(f"{name} {rate[precision] / 1e9:,.0f}" for name, rate in best.items())
        print(f"matrix product, {precision:<9} {rates} GFLOP/s")
    print(f"memory is read at {memory / 1e9:.1f} GB/s", flush=True)
    return {"flops_per_s": best, "read_bytes_per_s": round(memory)}


def read_bandwidth() -> float:
    """Bytes a second at which all cores together read memory: the best of several."""
    data = np.ones(2**26, np.float32)  # 256 MiB: more than any cache
    parts = np.array_split(data, cores())
    best = float("inf")
    with ThreadPoolExecutor(cores()) as pool:
        for _ in range(10):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return data.nbytes / best
