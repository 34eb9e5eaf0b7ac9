"""One library's matrix products, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from tfgpt.quick import skip_pictures

SIZE, TRIES, PATIENCE = 2048, 10, 4.0  # a precision that the processor does not know can take seconds a product


def main() -> None:
    """Do the work, print one JSON line."""
    work = json.loads(sys.argv[1])
    product = {"tensorflow": _tensorflow, "torch": _torch}[work["library"]](work["threads"])
    print(json.dumps({precision: best_rate(product(precision)) for precision in work["precisions"]}))


def best_rate(product: Callable[[], object]) -> float:
    """FLOP/s of the best of several products of two square matrices; the first one is not timed."""
    product()
    times: list[float] = []
    while len(times) < TRIES and (not times or sum(times) < PATIENCE):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return 2.0 * SIZE**3 / min(times)


def _tensorflow(threads: int) -> Callable[[str], Callable[[], object]]:
    skip_pictures()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)

    def of(precision: str) -> Callable[[], object]:
        a = tf.cast(tf.random.stateless_normal((SIZE, SIZE), (1, 2)), precision)
        product = tf.function(lambda a: tf.matmul(a, a))
        return lambda: product(a)[0, 0].numpy()

    return of


def _torch(threads: int) -> Callable[[str], Callable[[], object]]:
    import torch

    torch.set_num_threads(threads)

    def of(precision: str) -> Callable[[], object]:
        a = torch.randn(SIZE, SIZE).to(getattr(torch, precision))
        return lambda: a @ a

    return of


if __name__ == "__main__":
    main()
