"""A model as somebody has stored it: what it is like, its tensors (none of them read yet), and the tokenizer it came with.

Every reader of other people's checkpoints gives a `Source`, and every writer takes one, so that whatever can be read can be
written in every other form. Tensors are read one at a time: a model of 6 GB passes through a process of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from tfgpt.errors import UserError
from tfgpt.tokenizers import Tokenizer

SHOWN = 5  # faults that a message names


@dataclass(frozen=True)
class Tensor:
    """One array that has not been read yet; `read()` gives it as float32, in GPT-2's own layout (matrices are [in, out])."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Source:
    """One model.

    kind       what it is, in words: "OpenAI's GPT-2 (a TensorFlow checkpoint)"
    path       where it lies
    keys       keys of a configuration that its shape gives: n_layer, n_head, n_embd, n_ctx, n_vocab, and where they are not the
               defaults activation, attention_types, attention_window
    tensors    by GPT-2's names (wte.weight, wpe.weight, h.0.ln_1.weight ... ln_f.bias), all of them: `checked` says so.
               wte has n_vocab rows.
    tokenizer  what lies beside it; None if nothing does
    notes      what a user should know of how it was read
    """

    kind: str
    path: str
    keys: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = field(default=())


def expected(keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model with these keys.

    >>> expected({"n_layer": 0, "n_embd": 8, "n_ctx": 4, "n_vocab": 5})["wte.weight"]
    (5, 8)
    """
    width = keys["n_embd"]
    found: dict[str, tuple[int, ...]] = {"wte.weight": (keys["n_vocab"], width), "wpe.weight": (keys["n_ctx"], width)}
    for i in range(keys["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            found |= {f"h.{i}.{norm}.weight": (width,), f"h.{i}.{norm}.bias": (width,)}
        for name, ins, outs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            found |= {f"h.{i}.{name}.weight": (ins, outs), f"h.{i}.{name}.bias": (outs,)}
    return found | {"ln_f.weight": (width,), "ln_f.bias": (width,)}


def checked(source: Source, *, unknown: list[str] | None = None) -> Source:
    """The source, if it has exactly the tensors that its keys call for; else a UserError with the list.

    `unknown` are tensors in the file that the reader could make nothing of.
    """
    keys, wanted = source.keys, expected(source.keys)
    faults = [f"{name} is missing" for name in wanted if name not in source.tensors]
    # A stranger's names: control characters and walls of letters stay out of the terminal.
    odd = [ascii(name)[1:-1][:80] for name in [*source.tensors, *(unknown or [])] if name not in wanted]
    faults += [f"{name} is not part of this model" for name in odd]
    faults += [
        f"{name} is {list(source.tensors[name].shape)}, needed {list(shape)}"
        for name, shape in wanted.items()
        if name in source.tensors and tuple(source.tensors[name].shape) != shape
    ]
    if keys["n_embd"] % keys["n_head"]:
        faults.append(f"{keys['n_head']} heads do not divide a width of {keys['n_embd']}")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise UserError(
            f"the tensors of this model ({source.kind}) are not those of a GPT with {keys['n_layer']} blocks of width"
            f" {keys['n_embd']}:\n    " + "\n    ".join(faults[:SHOWN] + more),
            where=source.path,
            fix="fetch it again",
        )
    return source


def finite(source: Source) -> Source:
    """The source; a tensor of it that holds numbers that are none (NaN, infinity) is an error when it is read."""

    def read(name: str, tensor: Tensor) -> np.ndarray:
        found = np.asarray(tensor.read(), np.float32)
        if not np.isfinite(found).all():
            raise UserError(f"{name} holds numbers that are not finite", where=source.path, fix="fetch the model again")
        return found

    tensors = {name: Tensor(tensor.shape, partial(read, name, tensor)) for name, tensor in source.tensors.items()}
    return replace(source, tensors=tensors)
