"""EleutherAI's GPT-Neo as transformers stores it: every other block sees a sliding window, and scores are not scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt.errors import UserError
from tfgpt.weights.huggingface_names import (
    Facts,
    Stored,
    activation_of,
    common,
    require_blocks,
    scaled,
    transposed,
    zeros,
)
from tfgpt.weights.source import Source, Tensor

OURS = {"global": "global", "local": "sliding"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
DEFAULT = [[["global", "local"], 12]]


def read(facts: Facts, stored: Mapping[str, Stored]) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Keys, tensors and notes of a GPT-Neo. Tensors that it does not know pass as they are."""
    width = facts.count("hidden_size")
    keys = {
        "n_layer": facts.count("num_layers", "num_hidden_layers"),
        "n_head": facts.count("num_heads", "num_attention_heads"),
        "n_embd": width,
        "n_ctx": facts.count("max_position_embeddings"),
        "n_vocab": facts.count("vocab_size"),
    } | common(facts, width=width, inner="intermediate_size")
    require_blocks(stored, keys["n_layer"], key="num_layers", where=facts.where)
    keys |= _attention(facts, keys["n_layer"])
    # Our scores are divided by the root of a head's width, so the queries are multiplied by it beforehand.
    root = math.sqrt(width / keys["n_head"])
    notes = [
        "GPT-Neo does not scale its attention scores; the factor that undoes ours became part of the query weights"
    ]
    if math.frexp(root)[0] != 0.5:
        notes[0] += f" (sqrt({width / keys['n_head']:g}) is not a power of 2: they are rounded anew)"
    rest, tensors = dict(stored), {}
    for i in range(keys["n_layer"]):
        own = f"h.{i}.attn.attention."
        parts = [rest.pop(f"{own}{part}_proj.weight", None) for part in "qkv"]
        for part, tensor in zip("qkv", parts, strict=True):
            if tensor is None or tensor.shape != (width, width):
                said = "is missing" if tensor is None else f"is {list(tensor.shape)}, needed {[width, width]}"
                raise UserError(f"{own}{part}_proj.weight {said}", where=facts.where, fix="fetch the model again")
        tensors[f"h.{i}.attn.c_attn.weight"] = scaled(_joined([part for part in parts if part]), width, root)
        tensors[f"h.{i}.attn.c_attn.bias"] = zeros(3 * width)
    for name, found in rest.items():
        ours = name.replace(".attn.attention.out_proj.", ".attn.c_proj.")
        if ours in rest and ours != name:
            raise UserError(f"{ours} is not part of a GPT-Neo", where=facts.where)
        tensors[ours] = transposed(found) if ours.endswith(("c_proj.weight", "c_fc.weight")) else found
    return keys, tensors, notes


def can_write(source: Source) -> bool:
    """Whether the source has sliding blocks, and none that GPT-Neo does not know."""
    kinds = {kind for names, _ in source.keys.get("attention_types") or [] for kind in names}
    return "sliding" in kinds and kinds <= set(THEIRS)


def config(source: Source, end: int | None) -> dict[str, Any]:
    """config.json of a GPT-Neo; `end` is the id that ends a document."""
    keys = source.keys
    types = [[[THEIRS[kind] for kind in names], times] for names, times in keys["attention_types"]]
    for i in range(keys["n_layer"]):
        if source.tensors[f"h.{i}.attn.c_attn.bias"].read().any():
            raise UserError(
                f"h.{i}.attn.c_attn.bias is not zero, and GPT-Neo has no such bias: the model cannot be written as one",
                where=source.path,
                fix="use this model with tfgpt; nothing in transformers computes what it computes",
            )
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "activation_function": activation_of(source),
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
        "attention_layers": [kind for names, times in types for kind in names * times],
        "attention_types": types,
        "bos_token_id": end,
        "eos_token_id": end,
        "hidden_size": keys["n_embd"],
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": keys["n_ctx"],
        "num_heads": keys["n_head"],
        "num_layers": keys["n_layer"],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": keys["n_vocab"],
        "window_size": keys["attention_window"],
    }


def stored(source: Source) -> dict[str, Tensor]:
    """The tensors by the names that transformers gives a GPT-Neo."""
    width = source.keys["n_embd"]
    root = math.sqrt(width / source.keys["n_head"])
    found: dict[str, Tensor] = {}
    for name, tensor in source.tensors.items():
        if name.endswith("attn.c_attn.weight"):
            plain = scaled(tensor, width, 1 / root)
            own = f"transformer.{name.removesuffix('c_attn.weight')}attention."
            for i, part in enumerate("qkv"):
                found[f"{own}{part}_proj.weight"] = transposed(_columns(plain, i * width, width))
        elif not name.endswith("attn.c_attn.bias"):
            theirs = name.replace(".attn.c_proj.", ".attn.attention.out_proj.")
            found[f"transformer.{theirs}"] = (
                transposed(tensor) if name.endswith(("c_proj.weight", "c_fc.weight")) else tensor
            )
    return found


def _attention(facts: Facts, n_layer: int) -> dict[str, Any]:
    types: Any = facts.content.get("attention_types") or DEFAULT
    try:
        sound = all(
            type(times) is int and times > 0 and len(names) > 0 and all(name in OURS for name in names)
            for names, times in types
        )
        covered = sum(len(names) * times for names, times in types) if sound else None
    except (TypeError, ValueError):
        covered = None
    if covered is None:
        raise UserError(
            f'"attention_types" is {types!r:.80}; it must be a list of kinds ("global", "local") and how often they repeat',
            where=facts.where,
            nearest='[[["global", "local"], 6]]',
        )
    if covered != n_layer:
        raise UserError(f'"attention_types" covers {covered} blocks, but "num_layers" is {n_layer}', where=facts.where)
    if not any("local" in names for names, _ in types):
        return {}
    ours = [[[OURS[name] for name in names], times] for names, times in types]
    return {"attention_types": ours, "attention_window": facts.count("window_size")}


def _joined(parts: list[Stored]) -> Tensor:
    width = parts[0].shape[0]
    return Tensor((width, 3 * width), lambda: np.concatenate([part.read().T for part in parts], axis=1))


def _columns(tensor: Tensor, start: int, count: int) -> Tensor:
    return Tensor((tensor.shape[0], count), lambda: tensor.read()[:, start : start + count])
