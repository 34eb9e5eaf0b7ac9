"""Which type and which products a machine generates with; "auto" is decided by timing them."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from tfgpt.errors import UserError
from tfgpt.generation.options import DTYPES
from tfgpt.generation.packing import quantised
from tfgpt.generation.products import Product
from tfgpt.model.shape import Shape

SMALL = 20_000_000  # weights that the processor's caches hold, about: below, no type is faster than another
WORTH = 1.2  # how much faster than float32 a type has to be for what it costs in accuracy
MATRICES, TRIES = 6, 7


def choose(dtype: str, form: Shape, *, slots: int) -> tuple[Product, str]:
    """The product for `dtype` ("auto": the fastest one for so many slots) and why."""
    if dtype not in DTYPES:
        raise UserError(f"weights cannot be kept as {dtype!r}", where="dtype", nearest=" ".join(DTYPES))
    if dtype != "auto":
        return Product(dtype), "as asked for"
    if form.parameters < SMALL:
        return Product("float32"), "the model is small, so that other types would gain nothing"
    seconds = {name: seconds_of(Product(name), form.n_embd, slots) for name in DTYPES if name != "auto"}
    fastest = min(seconds, key=lambda name: seconds[name])
    gain = seconds["float32"] / seconds[fastest]
    if gain < WORTH:
        return Product("float32"), f"no type gains more than {gain:.1f} times over it on this machine"
    return Product(fastest), f"its products take 1/{gain:.1f} of float32's time on this machine"


def seconds_of(product: Product, width: int, slots: int) -> float:
    """How long some products of the model's size take, one after the other; the best of several tries."""
    rng = np.random.default_rng(0)
    matrices = []
    for _ in range(MATRICES):
        data = rng.standard_normal((4 * width, width), dtype=np.float32)
        matrices.append(product.laid_out(quantised(data)[0] if product.dtype == "int8" else data))

    def run(x):
        for matrix in matrices:
            # One waits for the other, as in a model.
            found = product.multiply(x, matrix)
            x = x + tf.cast(found[: x.shape[0], :width], tf.float32) * 1e-30
        return x

    run = tf.function(run, jit_compile=True, autograph=False)
    x = tf.constant(rng.standard_normal((slots, width), dtype=np.float32))
    times = []
    for _ in range(TRIES + 1):
        started = time.perf_counter()
        run(x)[0, 0].numpy()
        times.append(time.perf_counter() - started)
    return min(times[1:])
