"""A GPT so small that a whole run takes a second, batches whose labels are spread unevenly, and what a run left behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt.config import Config

KEYS = {
    "tokenizer": "byte", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_ctx": 16, "train_batch_size": 8, "lr": 0.003,
    "weight_decay": 0.1, "max_steps": 30, "warmup_steps": 3, "train_steps": 10, "eval_steps": 2, "save_steps": 5,
    "iterations": 4, "embed_dropout": 0.0, "attn_dropout": 0.0, "res_dropout": 0.0, "tensorboard": False, "xla": "off",
    "clip": 0.5,
}  # fmt: skip
DROPOUT = {"embed_dropout": 0.1, "attn_dropout": 0.1, "res_dropout": 0.1}


def config(**keys: Any) -> Config:
    return Config(**{"data_path": "x", **KEYS, **keys})


def write_text(path: Path, *, seed: int) -> None:
    draw = random.Random(seed)
    words = "the a model of data learns to read and write small words in long lines while we wait for it".split()
    path.write_text("\n".join(" ".join(draw.choices(words, k=60)) + "." for _ in range(20)))


def batches(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Up to 4 batches [K, 8, 16]; row by row more labels are ignored, in the second one all those of the second half."""
    draw = np.random.default_rng(3)
    ids, labels = draw.integers(0, 250, (2, 4, 8, 16), dtype=np.int32)
    for row in range(8):
        labels[:, row, : 2 * row] = -1
    labels[1, 4:] = -1
    return ids[:count], labels[:count]


def chats() -> tuple[np.ndarray, np.ndarray]:
    """4 batches [4, 8, 16] of chats in which only what is sent counts, as training has them; in the third nothing does."""
    from tfgpt import chat, tokenizers
    from tfgpt.data import sides
    from tfgpt.data.batches import TrainBatches
    from tfgpt.data.tokens import Stored
    from tfgpt.data.windows import Packed, Stream

    draw = random.Random(5)
    said = [chat.Message(draw.random() < 0.3, "mum", "words " * draw.randrange(9)) for _ in range(60)]
    ids = np.array([*chat.write(said).encode(), 256], np.uint16)
    store = Stored("memory", ids, np.array([0, len(ids)]), "", len(ids) - 1, len(ids) - 1, 256, 0)
    marks = sides.marked([store], tokenizers.from_name("byte"), "sent")
    source, marked = (Packed(Stream(stores), n_ctx=16, key=1) for stores in ([store], marks))
    found = TrainBatches([source], [1.0], marks=[marked], batch_size=8, n_ctx=16, eot=256).stack(0, 4)
    found.labels[2] = -1
    return found.ids, found.labels


def place(strategy, *, xla: bool = False, precision: str = "float32", own: bool = False):
    from tfgpt.training.distribution import Place

    return Place(strategy, "CPU", "a test", xla, precision, "", own=own)


def step_of(settings: Config, where):
    """A model and its step, as an Estimator makes them."""
    from tfgpt.model import GPT
    from tfgpt.training.step import step_for

    with where.strategy.scope():
        gpt = GPT(settings, n_vocab=257)
    return step_for(settings, gpt, where)


def updates(settings: Config, where, count: int = 4, data: Any = None) -> dict[str, np.ndarray]:
    """What `count` updates (or those of `data`) tell and leave: losses, norms, all weights and optimizer state by name."""
    from tfgpt.training import snapshot

    step = step_of(settings, where)
    outcome = step.train(*(data or batches(count)), None, first=0)
    found = {"losses": outcome.losses, "norms": outcome.norms, "rates": outcome.rates, "tokens": outcome.tokens}
    found |= {f"weight {name}": value for name, value in snapshot.weights_of(step).items()}
    return found | {f"slot {name}": value for name, value in snapshot.optimizer_of(step).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Losses, norms and weights agree as well as sums in another order can."""
    assert one.keys() == other.keys()
    for name in one:
        if name.startswith("weight "):
            # Attention's key bias has no gradient but rounding, which Adam blows up to the size of an update.
            difference = np.abs(one[name] - other[name])
            assert difference.max() < 2e-4 and np.median(difference) < 1e-6, name
        elif not name.startswith("slot "):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name)


def lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; one that a kill has cut is left out."""
    found = []
    path = Path(run) / "metrics.jsonl"
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            pass
    return found


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines(run) if line["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    """Loss by step (updates made), as it stands: a resume or a rollback makes void what was written beyond it."""
    found: dict[int, float] = {}
    for line in lines(run):
        back = line["to"] if line["event"] == "rollback" else line["step"]
        if line["event"] in ("resume", "rollback"):
            found = {step: loss for step, loss in found.items() if step <= back}
        if line["event"] == "train":
            first = line["step"] - len(line["losses"]) + 1
            found |= {first + i: loss for i, loss in enumerate(line["losses"])}
    return found


def evals(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in events(run, "eval")}


def last(run: Path):
    """The newest checkpoint of a run."""
    from tfgpt.training import checkpoints

    return checkpoints.load(str(run))


def bit_equal(one, other) -> None:
    """Two checkpoints hold the same weights, optimizer and state, to the last bit; only the clock may differ."""
    for a, b in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].tobytes() == b[name].tobytes(), name
    assert {**one.state, "elapsed": 0} == {**other.state, "elapsed": 0}


POISON = 251  # an id that no batch and no text has, until a test puts it there


def poison(step, *, factor: float = float("nan")) -> None:
    """From now on the loss of any part of a batch that holds the id POISON is multiplied by `factor`, and so are gradients."""
    import tensorflow as tf

    multiply_losses(step, lambda ids: tf.where(tf.reduce_any(ids == POISON), factor, 1.0))


def multiply_losses(step, factor) -> None:
    """From now on losses and gradients are those of the loss times `factor(ids)`."""
    loss, gradients = step.parts.loss, step.parts.gradients

    def odd_gradients(weights, ids, labels, *, scale, **keys):
        by = factor(ids)
        total, found = gradients(weights, ids, labels, scale=scale, **keys)
        return total * by, {name: gradient * by for name, gradient in found.items()}

    step.parts.loss = lambda weights, ids, labels, **keys: loss(weights, ids, labels, **keys) * factor(ids)
    step.parts.gradients = odd_gradients


class Odd:
    """Evaluation batches of 5 rows, which two replicas cannot halve."""

    batch_size = 5

    def batch(self, number, rows):
        ids, labels = batches(1)
        return ids[0][:5][rows], labels[0][:5][rows], None
