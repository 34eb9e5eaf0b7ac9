"""A model of other people written as a checkpoint of this package, one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from tfgpt import files
from tfgpt.config.wording import explain
from tfgpt.errors import Failure, Problems, UserError
from tfgpt.progress import Progress
from tfgpt.tensors import Later
from tfgpt.tokenizers import Tokenizer
from tfgpt.training import saver
from tfgpt.training.manifest import base_name
from tfgpt.training.opening import config_of, padded
from tfgpt.weights.source import Source, Tensor, finite

# What training goes on with, unless the user says otherwise: small steps on a model that knows something already.
TUNING = {"lr": 5e-5, "max_steps": 1000, "warmup_steps": 50, "train_steps": 100, "train_batch_size": 4}


def write(source: Source, folder: str, *, settings: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> None:
    """Make `folder` a checkpoint of the model: to generate and score with as it stands, and to start training from.

    `settings` are keys of its configuration beside those that the source gives. Nothing is left behind if this fails.
    """
    tokenizer, source = tokenizer or source.tokenizer, finite(source)
    if tokenizer is not None and tokenizer.n_vocab > source.keys["n_vocab"]:
        raise UserError(
            f"this tokenizer has {tokenizer.n_vocab:,} ids, the model only {source.keys['n_vocab']:,}",
            where=source.path,
            fix="name the tokenizer that the model was trained with",
        )
    place, name = os.path.split(folder.rstrip("/"))
    keys: dict[str, Any] = {"init_from": folder, "model_path": f"{folder.rstrip('/')}-tuned", **TUNING}
    if tokenizer is not None:
        keys["tokenizer"] = files.join(folder, "tokenizer")
    _require_free(source, settings)
    try:
        config = config_of(source, **(keys | dict(settings)))
    except ValidationError as error:
        problems, _ = explain(error, lambda path: f"--set {path[0] if path else ''}", broken=set())
        raise Problems(f"{len(problems)} mistakes in the settings; nothing was created", problems) from None
    rows = -(-config["n_vocab"] // config["vocab_multiple"]) * config["vocab_multiple"]
    total = 4 * sum(int(np.prod(tensor.shape)) for tensor in source.tensors.values())
    with Progress("import", total=total) as progress:
        weights = {
            key: Later(_shape(key, tensor, rows), partial(_read, key, source, rows, progress))
            for key, tensor in source.tensors.items()
        }
        what = saver.content(
            0,
            weights,
            {},
            state={"step": 0, "n_vocab": config["n_vocab"]},
            config=config,
            tokenizer_files=tokenizer.files() if tokenizer else None,
        )
        try:
            if not files.is_remote(folder):
                os.makedirs(place or ".", exist_ok=True)
            saver.require_room(place or ".", what)
            saver.write(place or ".", name, 1, what)
        except OSError as error:
            raise Failure(f"the model could not be written: {saver.words(error)}", where=folder) from error


def _require_free(source: Source, settings: Mapping[str, Any]) -> None:
    """UserError for a setting that the tensors, or the file that came with them, decide."""
    fixed = {*source.keys, "activation", "attention_types", "attention_window", "local"}
    if source.kind.startswith("nanoGPT"):
        fixed.discard("activation")  # its files do not say which of two their code computed
    for name, value in settings.items():
        if name in fixed and source.keys.get(name) != value:
            raise UserError(
                f"{name} is {source.keys.get(name, 'at its default')} in this model, and cannot be set",
                where=f"--set {name}={value}",
                fix="leave it out",
            )


def require_new(folder: str) -> None:
    """UserError unless nothing lies at `folder`."""
    if base_name(folder) in ("", ".", ".."):
        raise UserError("the new folder needs a name of its own", where=folder)
    if files.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UserError("this is there already, and is not written over", where=folder, fix="choose another folder")


def _shape(name: str, tensor: Tensor, rows: int) -> tuple[int, ...]:
    return (rows, *tensor.shape[1:]) if name == "wte.weight" else tensor.shape


def _read(name: str, source: Source, rows: int, progress: Progress) -> np.ndarray:
    found = source.tensors[name].read()
    progress.update(found.nbytes)
    return padded(found, rows) if name == "wte.weight" else found
