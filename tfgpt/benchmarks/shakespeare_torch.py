"""The peer of `tfgpt bench shakespeare`, in a process of its own: nanoGPT's recipe for a CPU, written from its flags.

`--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4
--n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0` on the character-level preset: AdamW without fusion,
a loss for the screen every step, both halves estimated and the best saved every 250.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_ctx": 64}
ROWS, EVERY, EVALUATED, WARMUP = 12, 250, 20, 100
HIGHEST, LOWEST = 1e-3, 1e-4


def main() -> None:
    """Train, print one JSON line."""
    import torch

    text, steps, threads = Path(sys.argv[1]).read_text("utf-8"), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1337)
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    ids = np.array([number[letter] for letter in text], np.int64)
    edge = int(0.9 * len(ids))
    parts = {"train": ids[:edge], "val": ids[edge:]}
    model = _model(len(letters))
    optimizer = _optimizer(model)
    best, folder = math.inf, Path(sys.argv[4])

    def batch(part: str):
        data, size = parts[part], SIZES["n_ctx"]
        starts = torch.randint(len(data) - size, (ROWS,))
        rows = torch.stack([torch.from_numpy(data[i : i + size + 1]) for i in starts])
        return rows[:, :-1], rows[:, 1:]

    def loss_of(ids, labels):
        return torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten())

    found = {}
    for step in range(steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                for part in parts:
                    found[part] = float(np.mean([loss_of(*batch(part)).item() for _ in range(EVALUATED)]))
            if found["val"] < best and step:
                best = found["val"]
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "ckpt.pt")
            print(f"step {step}  {found['train']:.4f}  {found['val']:.4f}", file=sys.stderr, flush=True)
        if step == steps:
            break
        loss = loss_of(*batch("train"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    print(json.dumps({"loss": found["val"], "steps": steps, "with": f"PyTorch {torch.__version__}"}))


def _rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return HIGHEST * (step + 1) / (WARMUP + 1)
    way = min(1.0, (step - WARMUP) / max(1, steps - WARMUP))
    return LOWEST + 0.5 * (1 + math.cos(math.pi * way)) * (HIGHEST - LOWEST)


def _optimizer(model):
    import torch

    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=HIGHEST, betas=(0.9, 0.99))


def _model(n_vocab: int):
    """A GPT-2 without biases, as the preset has it."""
    import torch
    from torch import nn

    width, heads = SIZES["n_embd"], SIZES["n_head"]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x):
            rows, length, _ = x.shape
            split = (x_.view(rows, length, heads, -1).transpose(1, 2) for x_ in self.qkv(self.norms[0](x)).chunk(3, -1))
            seen = nn.functional.scaled_dot_product_attention(*split, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(n_vocab, width), nn.Embedding(SIZES["n_ctx"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(SIZES["n_layer"]))
            self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, n_vocab, bias=False)
            self.head.weight = self.wte.weight
            for name, weight in self.named_parameters():
                if weight.dim() > 1:
                    deep = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(weight, std=0.02 / math.sqrt(2 * SIZES["n_layer"]) if deep else 0.02)

        def forward(self, ids):
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Net()


if __name__ == "__main__":
    main()
