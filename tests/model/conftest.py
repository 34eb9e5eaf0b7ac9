"""Shared by the model tests: small models whose every weight matters, batches, and gradients by name."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from tfgpt.config import Config

KEYS = {"n_ctx": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "embed_dropout": 0.0, "attn_dropout": 0.0}
KEYS |= {"res_dropout": 0.0, "tokenizer": "char", "data_path": "x"}


def configured(**keys) -> Config:
    """A small configuration without dropout, with the keys that a test is about."""
    return Config(**(KEYS | {"n_vocab": 70} | keys))


def made(seed=0, **keys):
    """A GPT whose weights are all random, biases, LayerNorms and padding too, so that no wrong use of one goes unseen."""
    from tfgpt.model import GPT

    gpt = GPT(configured(**keys))
    rng = np.random.default_rng(seed)
    for name, variable in gpt.table.items():
        one = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        variable.assign(one + rng.normal(0, 0.2, variable.shape).astype("float32"))
    return gpt


def batch(gpt, *, rows=2, length=None, seed=1, ignored=0.0):
    """ids and labels [B, T]; a share of the labels is -1."""
    rng, shape = np.random.default_rng(seed), (rows, length or gpt.form.n_ctx)
    ids, labels = (rng.integers(0, gpt.form.n_vocab, shape).astype("int32") for _ in range(2))
    return ids, np.where(rng.random(shape) < ignored, -1, labels).astype("int32")


def documents(shape, seed=2):
    """Segment numbers [B, T]: some documents, one after the other."""
    return np.cumsum(np.random.default_rng(seed).random(shape) < 0.15, axis=1).astype("int32")


def weights_of(gpt):
    return {name: np.array(variable) for name, variable in gpt.table.items()}


def loss_of(gpt, ids, labels, segments=None, *, key=None):
    """The summed loss as an evaluation computes it."""
    return float(gpt.parts().loss(gpt.values(), ids, labels, segments=segments, key=key))


def loss_and_gradients(gpt, ids, labels, segments=None, *, key=None, jit=None, scale=1.0, names=None):
    """The summed loss and its gradients by name; `jit` None is eager, else a compiled graph with or without XLA."""
    import tensorflow as tf

    def run(ids, labels, segments):
        how = {"segments": segments, "key": key, "scale": scale, "names": names or list(gpt.table)}
        return gpt.parts().gradients(gpt.values(), ids, labels, **how)

    run = run if jit is None else tf.function(run, jit_compile=jit)
    loss, gradients = run(*(None if x is None else tf.constant(x) for x in (ids, labels, segments)))
    return float(loss), {name: np.array(g) for name, g in gradients.items()}


def close(found, expected, tolerance):
    """Each gradient, relative to the length of the expected one."""
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        error = np.linalg.norm(found[name] - want) / max(np.linalg.norm(want), 1e-9)
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.fixture(scope="session")
def key():
    """A key of the model's randomness."""
    from tfgpt.model.randomness import key_of

    return key_of(7)
