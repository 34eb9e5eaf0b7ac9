"""The peer of `tfgpt bench input`, in a process of its own: tf.data pipelines as a person would write them."""

from __future__ import annotations

import json

from tfgpt.benchmarks.input_work import EOT, MODES, STITCH, Work
from tfgpt.quick import skip_pictures

JOINED, SHUFFLED = 256, 1000  # documents that are cut together; windows in the shuffle buffer


def main() -> None:
    """Do the work, print one JSON line."""
    skip_pictures()
    work = Work.given()
    makers = {"packed": packed, "stitched": stitched, "chunk": chunks, "mixture": mixture}
    speeds = {}
    for name in dict.fromkeys(mode.beside for mode in MODES.values()):
        windows = makers[name](work)
        pairs = _batched(windows, work).as_numpy_iterator()
        speeds[name] = work.speed(lambda pairs=pairs: next(pairs))
    print(json.dumps({"tokens_per_s": speeds}))


def packed(work: Work):
    """Documents end to end, each with its end-of-text, cut into windows."""
    import tensorflow as tf

    def cut(documents):
        ids = documents.flat_values
        whole = tf.size(ids) // (work.n_ctx + 1)
        return tf.reshape(ids[: whole * (work.n_ctx + 1)], [whole, work.n_ctx + 1])

    def ended(ids):
        return tf.concat([ids, [EOT]], 0)

    return _documents(work, "text").map(ended).ragged_batch(JOINED).map(cut).unbatch()


def stitched(work: Work):
    """A window at a random place of several documents."""
    import tensorflow as tf

    def window(documents):
        ids = documents.flat_values
        ids = tf.pad(ids, [[0, tf.maximum(work.n_ctx + 1 - tf.size(ids), 0)]], constant_values=EOT)
        start = tf.random.uniform([], 0, tf.size(ids) - work.n_ctx, tf.int32)
        return tf.ensure_shape(ids[start : start + work.n_ctx + 1], [work.n_ctx + 1])

    return _documents(work, "text").ragged_batch(STITCH).map(window, num_parallel_calls=tf.data.AUTOTUNE)


def chunks(work: Work):
    """Records that are windows."""
    import tensorflow as tf

    return _documents(work, "chunk").map(lambda ids: tf.ensure_shape(ids, [work.n_ctx + 1]))


def mixture(work: Work):
    """Both, by weight."""
    import tensorflow as tf

    return tf.data.Dataset.sample_from_datasets([packed(work), chunks(work)], [0.7, 0.3])


def _documents(work: Work, kind: str):
    import tensorflow as tf

    def parse(record):
        found = tf.io.parse_single_example(record, {"text": tf.io.VarLenFeature(tf.int64)})
        return tf.cast(found["text"].values, tf.int32)

    paths = work.paths(kind)
    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    found = files.interleave(tf.data.TFRecordDataset, cycle_length=len(paths), num_parallel_calls=tf.data.AUTOTUNE)
    return found.map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def _batched(windows, work: Work):
    import tensorflow as tf

    found = windows.shuffle(SHUFFLED).batch(work.batch_size, drop_remainder=True)
    return found.map(lambda rows: (rows[:, :-1], rows[:, 1:])).prefetch(tf.data.AUTOTUNE)


if __name__ == "__main__":
    main()
