"""Which type a machine generates with; "auto" is decided by timing the products."""

from __future__ import annotations

import time

import numpy as np

from tfgpt.errors import UserError
from tfgpt.model.shape import Shape
from tfgpt.native.network import STORE, TALLEST, multiply
from tfgpt.native.packing import KINDS, Dense
from tfgpt.native.vectors import PANEL

SMALL = 20_000_000  # weights that the processor's caches hold, about: below, no type is faster than another
WORTH = 1.2  # how much faster than float32 a type has to be for what it costs in accuracy
BLOCKS, TRIES = 6, 7


def choose(dtype: str, form: Shape, *, slots: int) -> tuple[str, str]:
    """The type for `dtype` ("auto": the fastest one for so many slots) and why."""
    if dtype not in ("auto", *KINDS):
        raise UserError(f"weights cannot be kept as {dtype!r}", where="dtype", nearest=" ".join(("auto", *KINDS)))
    if dtype != "auto":
        return dtype, "as asked for"
    if form.parameters < SMALL:
        return "float32", "the model is small, so that other types would gain nothing"
    seconds = {name: seconds_of(name, form.n_embd, slots) for name in KINDS}
    fastest = min(seconds, key=lambda name: seconds[name])
    gain = seconds["float32"] / seconds[fastest]
    if gain < WORTH:
        return "float32", f"no type gains more than {gain:.1f} times over it on this machine"
    return fastest, f"its products take 1/{gain:.1f} of float32's time on this machine"


def seconds_of(dtype: str, width: int, slots: int) -> float:
    """How long one thread takes for some products of the model's size; the best of several tries."""
    panels = -(-4 * width // PANEL)
    vectors = [np.zeros((BLOCKS, panels * PANEL), np.float32) for _ in range(2)]
    dense = Dense(np.ones((BLOCKS, panels, width, PANEL), KINDS[dtype]), *vectors)
    x, out = np.ones((slots, width), np.float32), np.zeros((slots, panels * PANEL), np.float32)
    sums = np.zeros((slots + TALLEST, PANEL), np.float32)
    times = []
    for _ in range(TRIES + 1):
        started = time.perf_counter()
        for block in np.arange(BLOCKS):
            multiply(0, 1, slots, x, dense, block, out, sums, STORE)
        times.append(time.perf_counter() - started)
    return min(times[1:])
