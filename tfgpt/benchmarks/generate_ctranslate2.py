"""A peer of `tfgpt bench generate`, in a process of its own: CTranslate2. With "convert" it only converts the weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tfgpt.benchmarks.generation_work import SIZES, TOP_K, Work


def main() -> None:
    """Do the work, print one JSON line."""
    work = Work.given()
    place = Path(work.folder) / f"ctranslate2-{work.dtype}"
    if len(sys.argv) > 2:
        convert(work, place)
        print("{}")
        return
    import ctranslate2

    generator = ctranslate2.Generator(str(place), device="cpu", compute_type=work.dtype, intra_threads=work.threads)

    def write(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        texts = [[f"t{number}" for number in ids] for ids in prompts]
        how = {"sampling_topk": TOP_K, "max_length": tokens, "min_length": tokens, "include_prompt_in_result": False}
        return [list(found.sequences_ids[0]) for found in generator.generate_batch(texts, **how)]

    print(json.dumps(work.timed(write) | {"with": f"CTranslate2 {ctranslate2.__version__}"}))


def convert(work: Work, place: Path) -> None:
    """The benchmark's weights in CTranslate2's own format."""
    from ctranslate2.converters import transformers as converters

    from tfgpt.benchmarks.generate_torch import gpt2

    loader = converters._MODEL_LOADERS["GPT2Config"]
    spec = loader.get_model_spec(gpt2(work))
    spec.register_vocabulary([f"t{number}" for number in range(SIZES["n_vocab"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = f"t{SIZES['n_vocab'] - 1}"
    spec.validate()
    spec.optimize(quantization=work.dtype)
    place.mkdir(exist_ok=True)
    spec.save(str(place))


if __name__ == "__main__":
    main()
