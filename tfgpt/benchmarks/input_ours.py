"""Our side of `tfgpt bench input`, in a process of its own: batches as the training loop takes them."""

from __future__ import annotations

import json
import os
import time
from itertools import count

import numpy as np

from tfgpt.benchmarks.input_work import MODES, N_VOCAB, STITCH, Mode, Work
from tfgpt.config import Config
from tfgpt.data.inputs import open_inputs


def main() -> None:
    """Do the work, print one JSON line."""
    work = Work.given()
    os.environ["TFGPT_CACHE"] = os.path.join(work.folder, "cache")
    speeds, opened = {}, 0.0
    for name, mode in MODES.items():
        started = time.perf_counter()
        batches = open_inputs(_config(work, mode)).train
        opened += time.perf_counter() - started
        numbers = count()

        def batch(batches=batches, numbers=numbers) -> tuple[np.ndarray, np.ndarray]:
            found = batches.batch(next(numbers))
            return found.ids, found.labels

        speeds[name] = work.speed(batch)
    print(json.dumps({"tokens_per_s": speeds, "opened_s": opened}))


def _config(work: Work, mode: Mode) -> Config:
    parts = [
        {"train": work.paths(kind), "mode": how, "weight": weight, "stitch": STITCH} for kind, how, weight in mode.parts
    ]
    return Config(
        datasets=parts,
        n_ctx=work.n_ctx,
        train_batch_size=work.batch_size,
        document_mask=mode.document_mask,
        n_vocab=N_VOCAB,
        eval_steps=0,
    )


if __name__ == "__main__":
    main()
