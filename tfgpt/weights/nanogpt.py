"""nanoGPT's ckpt.pt: one dictionary of torch.save with the weights, the shape, and the optimizer's state, which is left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers import Tokenizer
from tfgpt.weights import torch_files
from tfgpt.weights.huggingface_names import (
    HEAD,
    Facts,
    named,
    notes_on,
    require_blocks,
    require_tied,
    transposed,
    zeros,
)
from tfgpt.weights.source import Source, Tensor, checked, expected

FILE = "ckpt.pt"
META = "meta.pkl"
ENDINGS = (".pt", ".pth")
# nanoGPT rounds GPT-2's vocabulary up to a multiple of 64; the rows beyond it belong to no token.
PADDED, REAL = 50304, 50257
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ACTIVATION = (
    "nanoGPT has computed the exact GELU since June 2023, and so will tfgpt; for a checkpoint that an older nanoGPT trained:"
    " --set activation=gelu_tanh"
)


def recognises(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a .pt or .pth file, or a folder with a ckpt.pt."""
    place = Path(path)
    return place.is_file() and place.suffix in ENDINGS or (place / FILE).is_file()


def read(path: str | os.PathLike[str]) -> Source:
    """The model in a checkpoint of nanoGPT, or in the ckpt.pt of a folder; a meta.pkl beside it is its tokenizer.

    >>> read("out/ckpt.pt").keys["n_layer"]                             # doctest: +SKIP
    12
    """
    place = Path(path)
    place = place / FILE if place.is_dir() else place
    where = str(place)
    content = torch_files.load(where)
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(k), Mapping) for k in ("model", "model_args")
    ):
        raise UserError(
            'this is no checkpoint of nanoGPT: it has no "model" and "model_args"',
            where=where,
            fix="give the ckpt.pt that nanoGPT's train.py wrote; a model of Hugging Face is given by its folder",
        )
    facts = Facts(content["model_args"], f"{where}, model_args")
    keys: dict[str, Any] = {
        "n_layer": facts.count("n_layer"),
        "n_head": facts.count("n_head"),
        "n_embd": facts.count("n_embd"),
        "n_ctx": facts.count("block_size"),
        "n_vocab": facts.count("vocab_size"),
        "activation": "gelu",
    }
    # torch.compile puts its own prefix before all names.
    bare = {name.removeprefix("_orig_mod."): tensor for name, tensor in content["model"].items() if _is_text(name)}
    if len(bare) != len(content["model"]):
        raise UserError("tensors without a name of their own", where=where)
    stored = named(torch_files.named_tensors(bare, where=where), where=where)
    require_blocks(stored, keys["n_layer"], key="n_layer", where=facts.where)
    head = stored.pop(HEAD, None)
    tensors: dict[str, Tensor] = {
        name: transposed(tensor) if name.endswith(MATRICES) else tensor for name, tensor in stored.items()
    }
    notes = [ACTIVATION, *notes_on(stored)]
    if facts.must("bias", True, False) is False:
        for name, shape in expected(keys).items():
            if name.endswith(".bias"):
                tensors.setdefault(name, zeros(*shape))
        notes.append('"bias" is false: the biases that tfgpt\'s GPT has are zeros')
    source = checked(Source("a checkpoint of nanoGPT", where, keys, tensors, _tokenizer(place), tuple(notes)))
    require_tied(head, tensors["wte.weight"], where=where)
    return _without_padding(source) if keys["n_vocab"] == PADDED else source


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _tokenizer(place: Path) -> Tokenizer | None:
    meta = place.with_name(META)
    return tokenizers.load(meta) if meta.is_file() else None


def _without_padding(source: Source) -> Source:
    table = source.tensors["wte.weight"]
    return replace(
        source,
        keys={**source.keys, "n_vocab": REAL},
        tensors={**source.tensors, "wte.weight": Tensor((REAL, table.shape[1]), lambda: table.read()[:REAL])},
        notes=(*source.notes, f"of {PADDED} rows of its vocabulary the {REAL} that GPT-2's tokens have were kept"),
    )
