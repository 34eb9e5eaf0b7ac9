"""A model by the name of its folder, whoever stored it: this package, or one of those that `tfgpt.weights` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt import files, tensors, tokenizers
from tfgpt.config import Config
from tfgpt.config.model import TOKENIZER_SIZES
from tfgpt.errors import UserError
from tfgpt.tokenizers import Tokenizer
from tfgpt.training import restoring
from tfgpt.training.manifest import MANIFEST, WEIGHTS
from tfgpt.training.restoring import Checkpoint
from tfgpt.weights import recognise
from tfgpt.weights.source import Source, Tensor, finite

# Of a configuration, what says how a model computes.
SHAPE = ("n_layer", "n_head", "n_embd", "n_ctx", "activation", "attention_types", "attention_window")
LOCAL = ("local", "fixed_attn_block_size", "layer_offset")


def is_foreign(folder: str) -> bool:
    """Whether a model of other people lies there, and no checkpoint of this package."""
    if not recognise.recognises(folder):
        return False
    if os.path.isfile(folder):
        return True
    try:
        restoring.find(folder)
    except UserError:
        return True
    return False


def is_model(folder: str) -> bool:
    """Whether the folder itself is a model: one checkpoint, or a released one."""
    return files.exists(files.join(folder, MANIFEST)) or is_foreign(folder)


def load(
    folder: str, *, best: bool = False, like: Config | None = None
) -> tuple[Checkpoint, Tokenizer | None, tuple[str, ...]]:
    """The weights of any model, the tokenizer that lies with it, and what is worth knowing.

    `like` is a configuration that tells what some released checkpoints do not say: how many heads they have.
    """
    if not is_foreign(folder):
        found = _own(folder, best)
        return found, _own_tokenizer(found), ()
    source = finite(recognise.read(folder, n_head=like.n_head if like else None))
    config = config_of(source)
    rows = -(-config["n_vocab"] // config["vocab_multiple"]) * config["vocab_multiple"]
    weights = {name: tensor.read() for name, tensor in source.tensors.items()}
    weights["wte.weight"] = padded(weights["wte.weight"], rows)
    state = {"step": 0, "n_vocab": source.keys["n_vocab"]}
    return Checkpoint(0, source.path, weights, {}, state, config), source.tokenizer, source.notes


def source(folder: str, *, best: bool = False, n_head: int | None = None) -> Source:
    """Any model as something that can be written in every form."""
    if is_foreign(folder):
        return recognise.read(folder, n_head=n_head)
    found = _own(folder, best)
    config, tokenizer = Config(**found.config), _own_tokenizer(found)
    n_vocab = found.state.get("n_vocab") or config.n_vocab or (tokenizer.n_vocab if tokenizer else None)
    if n_vocab is None:
        raise UserError("this checkpoint does not say how large its vocabulary is", where=found.path)
    names = SHAPE + (LOCAL if "local" in found.config and _is_local(config) else ())
    keys = {name: value for name in names if (value := getattr(config, name)) is not None}
    keys["n_vocab"] = int(n_vocab)
    arrays = {name: Tensor(array.shape, lambda array=array: array) for name, array in found.weights.items()}
    if not files.is_remote(found.path):
        # Every byte has been checked; from here on one array at a time is enough.
        stored = tensors.on_disk(files.join(found.path, WEIGHTS))
        arrays = {name: Tensor(array.shape, array.make) for name, array in stored.items()}
    rows, table = keys["n_vocab"], arrays["wte.weight"]
    arrays["wte.weight"] = Tensor((rows, table.shape[1]), lambda: table.read()[:rows])
    return Source(f"a checkpoint of tfgpt, step {found.step:,}", found.path, keys, arrays, tokenizer)


def config_of(source: Source, **more: Any) -> dict[str, Any]:
    """The whole configuration of a model that others have stored; `more` keys that the user sets."""
    # Without its tokenizer, ids are GPT-2's if there are enough of them, and else nobody knows whose.
    tokenizer = "gpt2" if source.keys["n_vocab"] >= TOKENIZER_SIZES["gpt2"] else "char"
    return Config(**{"tokenizer": tokenizer, "input": "tfrecords", **source.keys, **more}).model_dump(mode="json")


def padded(table: np.ndarray, rows: int) -> np.ndarray:
    """The table of tokens with rows of zeros behind, as the network keeps it."""
    found = np.zeros((rows, table.shape[1]), np.float32)
    found[: len(table)] = table
    return found


def differences(config: Config, other: Mapping[str, Any]) -> list[str]:
    """Keys that change what the same weights compute, and which the model they came from has otherwise."""
    names = ("n_head", "activation", "attention_types", "attention_window", *LOCAL)
    theirs = Config(**other)
    kinds = [_kinds(side) for side in (config, theirs)]
    found = []
    for name in names:
        if name in ("attention_types", "local"):
            continue
        if name == "attention_window" and "sliding" not in (*kinds[0], *kinds[1]):
            continue
        if name in ("fixed_attn_block_size", "layer_offset") and "local" not in (*kinds[0], *kinds[1]):
            continue
        if getattr(config, name) != getattr(theirs, name):
            found.append(f"{name} is {getattr(theirs, name)} there, {getattr(config, name)} here")
    if kinds[0] != kinds[1] and config.n_layer == theirs.n_layer:
        found.append("attention (local, attention_types) is of another kind there")
    return found


def _kinds(config: Config) -> list[str]:
    kinds = [kind for names, times in config.attention_types or [] for kind in names * times]
    return kinds or ["local" if config.local else "global"] * config.n_layer


def _is_local(config: Config) -> bool:
    return "local" in _kinds(config)


def _own(folder: str, best: bool) -> Checkpoint:
    if not files.is_remote(folder) and os.path.isfile(folder):
        raise UserError(
            "this is a file, not a model's folder", where=folder, fix=f"name {os.path.dirname(folder) or '.'}"
        )
    try:
        restoring.find(folder)
    except UserError as error:
        error.nearest = error.nearest or recognise.KNOWN
        raise
    return restoring.load(folder, optimizer=False, best=best)


def _own_tokenizer(found: Checkpoint) -> Tokenizer | None:
    folder = files.join(found.path, "tokenizer")
    return tokenizers.load(folder) if files.exists(folder) else None
