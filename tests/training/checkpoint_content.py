"""What the checkpoint tests save: the true shapes of a tiny GPT, filled with numbers that follow from the step."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tfgpt.config import Config
from tfgpt.training.verification import shapes

CONFIG = Config(
    n_layer=1, n_embd=8, n_head=2, n_ctx=4, tokenizer="byte", data_path="x", train_batch_size=2, max_steps=100
).model_dump(mode="json")
TOKENIZER = {"encoder.json": b'{"a": 0}', "vocab.bpe": b"#version\n"}


def content(step: int, salt: int = 0):
    """Arguments of `Checkpoints.save` after the step."""
    draw = np.random.default_rng([step, salt])
    weights = {name: draw.normal(size=shape).astype("float32") for name, shape in shapes(CONFIG).items()}
    optimizer = {
        "mean/wte.weight": draw.normal(size=(320, 8)).astype("float32"),
        "half": draw.normal(size=(3, 5)).astype("float16"),
        "brain": draw.normal(size=7).astype(ml_dtypes.bfloat16),
        "count": np.array(step, "int64"),
        "odd": np.arange(3, dtype="uint8"),
        "none": np.zeros((0, 4), "float32"),
    }
    state = {"step": step, "elapsed": draw.random() / 3, "salt": salt, "skipped": [[1, 2]]}
    return weights, optimizer, state, CONFIG, TOKENIZER


def same(checkpoint, step: int, salt: int = 0) -> bool:
    """Whether a checkpoint is, bit for bit, what `content` says."""
    weights, optimizer, state, config, tokenizer = content(step, salt)
    for found, wanted in ((checkpoint.weights, weights), (checkpoint.optimizer, optimizer)):
        if found.keys() != wanted.keys():
            return False
        for name, array in wanted.items():
            other = found[name]
            if (other.dtype, other.shape, other.tobytes()) != (array.dtype, array.shape, array.tobytes()):
                return False
    return (checkpoint.step, checkpoint.state, checkpoint.config) == (step, state, config)
