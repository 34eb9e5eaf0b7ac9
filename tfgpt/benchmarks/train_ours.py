"""Our side of `tfgpt bench train`, in a process of its own: the step that a run makes, as a run calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt.benchmarks.training_work import OPTIMIZER, Work
from tfgpt.config import Config
from tfgpt.quick import skip_pictures


def main() -> None:
    """Do the work, print one JSON line."""
    skip_pictures()
    work = Work.given()
    config = config_of(work.sizes, work.precision)

    from tfgpt.model import GPT
    from tfgpt.training import distribution
    from tfgpt.training.step import step_for

    place = distribution.place(config)
    with place.strategy.scope():
        gpt = GPT(config)
    _write_weights(gpt, Path(work.weights))
    step = step_for(config, gpt, place)

    def call(ids: np.ndarray, labels: np.ndarray, first: int) -> list[float]:
        return step.train(ids, labels, None, first=first).losses.tolist()

    found = work.timed(call)
    found |= {"flops_per_token": gpt.form.training_flops, "with": _compiler(place)}
    print(json.dumps(found))


def config_of(sizes: dict[str, int], precision: str, **more: Any) -> Config:
    """A run without dropout of a model of these sizes, of which "rows" is the batch."""
    sizes = dict(sizes)
    return Config(
        **OPTIMIZER,
        train_batch_size=sizes.pop("rows"),
        **sizes,
        precision=precision,
        lr_schedule="constant",
        warmup_steps=0,
        embed_dropout=0.0,
        attn_dropout=0.0,
        res_dropout=0.0,
        tokenizer="char",  # the ids are made up; any tokenizer of no fixed size will do
        data_path="none",
        **more,
    )


def _compiler(place) -> str:
    return "own code" if place.own else "XLA" if place.xla else "no XLA"


def _write_weights(gpt, folder: Path) -> None:
    for name, variable in gpt.table.items():
        if not (path := folder / f"{name}.npy").exists():
            np.save(path, np.array(variable))


if __name__ == "__main__":
    main()
