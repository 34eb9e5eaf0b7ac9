"""A peer of `tfgpt bench train`, in a process of its own: transformers' GPT-2 as its users train it with PyTorch."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np

from tfgpt.benchmarks.training_work import OPTIMIZER, Work


def main() -> None:
    """Do the work, print one JSON line."""
    import torch

    work = Work.given()
    torch.set_num_threads(work.threads)
    kind = getattr(torch, work.precision)
    model = _model(work)
    optimizer = _optimizer(model)

    def loss_of(ids, labels):
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    loss_of = torch.compile(loss_of) if work.compiled else loss_of

    def call(ids: np.ndarray, labels: np.ndarray, first: int) -> list[float]:
        losses = []
        for rows, targets in zip(torch.from_numpy(ids).long(), torch.from_numpy(labels).long(), strict=True):
            lower = torch.autocast("cpu", kind) if kind != torch.float32 else contextlib.nullcontext()
            with lower:
                loss = loss_of(rows, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    found = work.timed(call)
    print(json.dumps(found | {"with": f"PyTorch {torch.__version__}{', compiled' if work.compiled else ''}"}))


def _model(work: Work):
    """GPT2LMHeadModel without dropout, with our first weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(work.sizes)
    del sizes["rows"]
    vocabulary, positions = sizes.pop("n_vocab"), sizes.pop("n_ctx")
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=positions, **sizes, **dropout)).train()
    with torch.no_grad():
        for name, weight in model.transformer.named_parameters():
            first = np.load(Path(work.weights) / f"{name}.npy", mmap_mode="r")
            weight.copy_(torch.from_numpy(np.array(first[: len(weight)])))  # theirs has no padding
    return model


def _optimizer(model):
    """AdamW, fused; decay for matrices only, as ours."""
    import torch

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    betas = (OPTIMIZER["beta1"], OPTIMIZER["beta2"])
    return torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=betas, eps=OPTIMIZER["epsilon"], fused=True)


if __name__ == "__main__":
    main()
