"""How fast this machine multiplies matrices, which the speed of training is a share of, and how fast it moves memory."""

from __future__ import annotations

import time

import tensorflow as tf

SIZE = {"CPU": 1024, "GPU": 8192, "TPU": 8192}
TRIES = 5


def matrix_peak(kind: str, precision: str) -> float:
    """The best of a few products, in FLOP/s of one device; takes a tenth of a second."""
    size = SIZE[kind]
    a = tf.cast(tf.random.stateless_normal((size, size), (1, 2)), precision)
    product = tf.function(lambda x: tf.reduce_sum(tf.cast(tf.matmul(x, x), tf.float32)))
    product(a).numpy()
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        product(a).numpy()
        times.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(times)


def memory_speed(kind: str) -> float:
    """Bytes a second between one device and its memory: the best of a few passes that read an array and write another."""
    count = (64 if kind == "CPU" else 256) << 20
    array = tf.zeros((count // 4,))
    move = tf.function(lambda x: x + 1.0)
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        move(array)[0].numpy()
        times.append(time.perf_counter() - started)
    return 2.0 * count / min(times)
