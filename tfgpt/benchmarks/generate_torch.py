"""A peer of `tfgpt bench generate`, in a process of its own: transformers' GPT-2 and its `generate`."""

from __future__ import annotations

import json

from tfgpt.benchmarks.generation_work import SIZES, TOP_K, Work


def main() -> None:
    """Do the work, print one JSON line."""
    import torch
    import transformers

    work = Work.given()
    torch.set_num_threads(work.threads)
    model = gpt2(work).to(getattr(torch, work.dtype))

    def write(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        how = {"do_sample": True, "top_k": TOP_K, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        return found[:, ids.shape[1] :].tolist()

    print(json.dumps(work.timed(write) | {"with": f"transformers {transformers.__version__}"}))


def gpt2(work: Work):
    """GPT2LMHeadModel with the benchmark's weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(SIZES)
    vocabulary, positions = sizes.pop("n_vocab"), sizes.pop("n_ctx")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=positions, **sizes)).eval()
    with torch.no_grad():
        for name, weight in model.transformer.named_parameters():
            weight.copy_(torch.from_numpy(work.weight(name)[: len(weight)]))
    return model


if __name__ == "__main__":
    main()
