"""What PyTorch's families of GPT share on their way to GPT-2's names, and the family of GPT-2 itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgpt.errors import UserError
from tfgpt.weights.source import Source, Tensor

HEAD = "lm_head.weight"
ROWS = 4096  # of two tables that are compared at a time
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
# Masks that older versions of transformers kept among the weights.
MASKS = re.compile(r"h\.\d+\.attn\.(attention\.)?(bias|masked_bias)")
# transformers' names of GELU's tanh approximation, and of GELU itself.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu"}
TOO_LARGE = 1 << 31


@dataclass(frozen=True)
class Stored(Tensor):
    """A tensor as a file holds it; `kind` is the type of its numbers there, in safetensors' words ("F16")."""

    kind: str


@dataclass(frozen=True)
class Facts:
    """What a file states about the shape of its model; read with distrust."""

    content: Mapping[str, Any]
    where: str

    def count(self, *names: str) -> int:
        """The whole number above zero under the first of `names` that is there."""
        name = next((name for name in names if self.content.get(name) is not None), names[0])
        value = self.content.get(name)
        if type(value) is not int or not 0 < value < TOO_LARGE:
            said = "is missing" if value is None else f"is {value!r:.60}"
            raise UserError(f'"{name}" {said}; it must be a whole number above zero', where=self.where)
        return value

    def must(self, name: str, *allowed: Any) -> Any:
        """The value of `name`, which has to be one of `allowed`; the first of them where it is not stated."""
        value = self.content.get(name, allowed[0])
        if not isinstance(value, str | int | float | None) or value not in allowed:
            legal = " or ".join(repr(choice) for choice in allowed)
            raise UserError(
                f'"{name}" is {value!r:.60}, and tfgpt\'s GPT knows only {legal}',
                where=self.where,
                fix="use transformers for this model",
            )
        return value


def common(facts: Facts, *, width: int, inner: str) -> dict[str, Any]:
    """The keys that both families state alike; what tfgpt's GPT cannot do is refused."""
    facts.must("layer_norm_epsilon", 1e-5)
    facts.must(inner, None, 4 * width)
    facts.must("add_cross_attention", False)
    facts.must("is_encoder_decoder", False)
    activation = ACTIVATIONS[facts.must("activation_function", *ACTIVATIONS)]
    return {"activation": activation} if activation != "gelu_tanh" else {}


def named(stored: Mapping[str, Stored], *, where: str, prefix: str = "transformer.") -> dict[str, Stored]:
    """The same tensors without `prefix` and without masks; numbers that are no floats are refused."""
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        short = name.removeprefix(prefix)
        if MASKS.fullmatch(short):
            continue
        if short in found:
            raise UserError(f"{short} is there twice, with and without {prefix!r}", where=where)
        if tensor.kind not in FLOATS:
            raise UserError(
                f"{name} holds numbers of type {tensor.kind}; only {', '.join(FLOATS.values())} can be read",
                where=where,
                fix="save the model in float32, without quantization",
            )
        found[short] = tensor
    return found


def require_blocks(stored: Mapping[str, Stored], n_layer: int, *, key: str, where: str) -> None:
    """A UserError unless the tensors are of `n_layer` blocks: said before lists are made of a number that may be absurd."""
    found = {int(match[1]) for name in stored if (match := re.match(r"h\.(\d{1,6})\.", name))}
    if len(found) != n_layer:
        raise UserError(
            f'"{key}" is {n_layer}, but the file has tensors of {len(found)} blocks',
            where=where,
            nearest=f'"{key}": {len(found)}' if found else "",
            fix="fetch the model again, or correct that number",
        )


def require_tied(head: Tensor | None, table: Tensor, *, where: str) -> None:
    """A UserError unless the output layer is the embedding table, number by number."""
    if head is None:
        return
    same = head.shape == table.shape
    if same:
        ours, theirs = table.read(), head.read()
        same = all(
            # As bits: NaN is not equal to itself.
            np.array_equal(ours[i : i + ROWS].view(np.uint32), theirs[i : i + ROWS].view(np.uint32))
            for i in range(0, len(ours), ROWS)
        )
    if not same:
        raise UserError(
            f"{HEAD} is not the embedding table (wte.weight): an output layer of its own, which tfgpt's GPT does not have",
            where=where,
            fix="use transformers for this model",
        )


def notes_on(stored: Mapping[str, Stored]) -> list[str]:
    """Which other types of numbers became float32."""
    kinds = sorted({FLOATS[tensor.kind] for tensor in stored.values()} - {"float32"})
    return [f"weights of type {' and '.join(kinds)} were made float32"] if kinds else []


def transposed(tensor: Tensor) -> Tensor:
    """A matrix of torch.nn.Linear, [out, in], as [in, out]."""
    return Tensor(tensor.shape[::-1], lambda: tensor.read().T)


def zeros(*shape: int) -> Tensor:
    """A tensor that no file holds."""
    return Tensor(shape, lambda: np.zeros(shape, np.float32))


def scaled(tensor: Tensor, columns: int, factor: float) -> Tensor:
    """The tensor with the first `columns` of its last axis multiplied by `factor`, rounded once."""

    def read() -> np.ndarray:
        array = np.array(tensor.read())
        array[..., :columns] = array[..., :columns].astype(np.float64) * factor
        return array

    return tensor if factor == 1 else Tensor(tensor.shape, read)


def read(facts: Facts, stored: Mapping[str, Stored]) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Keys, tensors and notes of a GPT-2; its names and layout are ours. Tensors that it does not know pass as they are."""
    width = facts.count("n_embd", "hidden_size")
    keys = {
        "n_layer": facts.count("n_layer", "num_hidden_layers"),
        "n_head": facts.count("n_head", "num_attention_heads"),
        "n_embd": width,
        "n_ctx": facts.count("n_positions", "max_position_embeddings", "n_ctx"),
        "n_vocab": facts.count("vocab_size"),
    } | common(facts, width=width, inner="n_inner")
    require_blocks(stored, keys["n_layer"], key="n_layer", where=facts.where)
    plain = facts.must("scale_attn_weights", True, False)
    by_layer = facts.must("scale_attn_by_inverse_layer_idx", False, True)
    tensors: dict[str, Tensor] = dict(stored)
    if plain and not by_layer:
        return keys, tensors, []
    # Our scores are always divided by the root of a head's width; any other factor can as well be part of the queries.
    root = 1.0 if plain else math.sqrt(width / keys["n_head"])
    for i in range(keys["n_layer"]):
        for part in ("weight", "bias"):
            name = f"h.{i}.attn.c_attn.{part}"
            if name in tensors:
                tensors[name] = scaled(tensors[name], width, root / (i + 1 if by_layer else 1))
    odd = [f'"scale_attn_weights": {str(bool(plain)).lower()}'] if not plain else []
    odd += ['"scale_attn_by_inverse_layer_idx": true'] if by_layer else []
    return keys, tensors, [f"{' and '.join(odd)} became part of the query weights; what comes out is the same"]


def config(source: Source, end: int | None) -> dict[str, Any]:
    """config.json of a GPT-2; `end` is the id that ends a document."""
    keys = source.keys
    kinds = {kind for names, _ in keys.get("attention_types") or [] for kind in names}
    if keys.get("local") or kinds - {"global"}:
        raise UserError(
            f"GPT-2 knows only global attention, not {', '.join(sorted(kinds - {'global'})) or 'local'}",
            where=source.path,
            fix="use this model with tfgpt; blocks of global and sliding attention alone can be written as a GPT-Neo",
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation_of(source),
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "bos_token_id": end,
        "eos_token_id": end,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": keys["n_ctx"],
        "n_embd": keys["n_embd"],
        "n_head": keys["n_head"],
        "n_inner": None,
        "n_layer": keys["n_layer"],
        "n_positions": keys["n_ctx"],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": keys["n_vocab"],
    }


def stored(source: Source) -> dict[str, Tensor]:
    """The tensors by the names that transformers gives a GPT-2."""
    return {f"transformer.{name}": tensor for name, tensor in source.tensors.items()}


def activation_of(source: Source) -> str:
    """transformers' name of the source's activation."""
    ours = source.keys.get("activation", "gelu_tanh")
    for theirs, name in ACTIVATIONS.items():
        if name == ours:
            return theirs
    raise UserError(
        f'transformers has no activation "{ours}" in a GPT-2', where=source.path, fix="use this model with tfgpt"
    )
