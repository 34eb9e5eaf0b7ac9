"""Our side of `tfgpt bench generate`, in a process of its own: the engine, and draws as the generator makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from tfgpt.benchmarks.generation_work import SIZES, TOP_K, Work
from tfgpt.quick import skip_pictures


class Stored(Mapping[str, np.ndarray]):
    """Weights that are read as they are asked for."""

    def __init__(self, work: Work, names: list[str]) -> None:
        self.work, self.names = work, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self.work.weight(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def main() -> None:
    """Do the work, print one JSON line."""
    skip_pictures()
    work = Work.given()
    from tfgpt.generation.draws import uniform
    from tfgpt.generation.engines import engine_class
    from tfgpt.generation.options import Options
    from tfgpt.generation.sampling import draw
    from tfgpt.machine import one_heap
    from tfgpt.model.shape import Shape

    one_heap(for_all=False)  # as our commands do
    form = Shape(**SIZES, attention=("global",) * SIZES["n_layer"])
    engine = engine_class()(Stored(work, list(form.weights)), form, slots=work.batch, dtype=work.dtype)
    options = Options(temperature=1.0, top_k=TOP_K)

    def write(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        logits = engine.prefill_many(dict(enumerate(prompts)))
        written: list[list[int]] = [[] for _ in prompts]
        for number in range(tokens):
            drawn = {slot: draw(row, options, uniform=uniform(0, slot, number)) for slot, row in logits.items()}
            for slot, token in drawn.items():
                written[slot].append(token)
            if number + 1 < tokens:
                logits = engine.step(drawn)
        return written

    found = work.timed(write)
    found |= {"bytes_per_step": engine.bytes_per_token, "cache_bytes": engine.cache_bytes, "with": engine.reason}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
