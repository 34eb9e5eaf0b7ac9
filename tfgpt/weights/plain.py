"""A GPT in plain NumPy, one token at a time: slow, short, and apart from the network that is trained and served.

It is what a certificate compares with where a model's own library is not at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfgpt.weights.source import Source

EPSILON = 1e-5
Array = npt.NDArray[Any]


class Plain:
    """The model of a source; it is told tokens one by one and remembers them.

    `dtype` is float64 for what is exact beyond doubt, float32 for half of its memory.
    """

    def __init__(self, source: Source, dtype: str = "float64") -> None:
        self.keys = source.keys
        self.w = {name: tensor.read().astype(dtype) for name, tensor in source.tensors.items()}
        self.kinds = attention_of(source.keys)
        self.seen: list[tuple[list[Array], list[Array]]] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.seen = [([], []) for _ in range(self.keys["n_layer"])]

    def logits(self, token: int) -> Array:
        """Logits [n_vocab] after one more token."""
        place, heads = len(self.seen[0][0]) if self.seen else 0, self.keys["n_head"]
        x = self.w["wte.weight"][token] + self.w["wpe.weight"][place]
        for i, (keys, values) in enumerate(self.seen):
            q, k, v = np.split(self._dense(i, "attn.c_attn", self._norm(f"h.{i}.ln_1", x)), 3)
            keys.append(k.reshape(heads, -1))
            values.append(v.reshape(heads, -1))
            first = self._first(i, place)
            k, v = np.stack(keys[first:], 1), np.stack(values[first:], 1)  # [H, seen, D]
            scores = np.einsum("hd,hsd->hs", q.reshape(heads, -1), k) / math.sqrt(k.shape[-1])
            p = np.exp(scores - scores.max(1, keepdims=True))
            x = x + self._dense(i, "attn.c_proj", np.einsum("hs,hsd->hd", p / p.sum(1, keepdims=True), v).reshape(-1))
            inner = self._dense(i, "mlp.c_fc", self._norm(f"h.{i}.ln_2", x))
            x = x + self._dense(i, "mlp.c_proj", self._gelu(inner))
        return np.asarray(self.w["wte.weight"] @ self._norm("ln_f", x))

    def _first(self, layer: int, place: int) -> int:
        """The oldest position that a token sees."""
        kind = self.kinds[layer]
        if kind == "sliding":
            return max(0, place - int(self.keys.get("attention_window", 256)) + 1)
        if kind == "local":
            size = int(self.keys.get("fixed_attn_block_size", 128))
            shift = layer * int(self.keys.get("layer_offset", 16)) % size
            return max(0, (place + shift) // size * size - shift)
        return 0

    def _dense(self, layer: int, name: str, x: Array) -> Array:
        return np.asarray(x @ self.w[f"h.{layer}.{name}.weight"] + self.w[f"h.{layer}.{name}.bias"])

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean()
        normal = centred / np.sqrt(centred.var() + EPSILON)
        return np.asarray(normal * self.w[f"{name}.weight"] + self.w[f"{name}.bias"])

    def _gelu(self, x: Array) -> Array:
        if self.keys.get("activation", "gelu_tanh") == "gelu":
            return np.asarray(x * 0.5 * (1 + np.array([math.erf(number * math.sqrt(0.5)) for number in x], x.dtype)))
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def attention_of(keys: Mapping[str, Any]) -> list[str]:
    """The kind of attention of each block.

    >>> attention_of({"n_layer": 4, "attention_types": [[["global", "sliding"], 2]]})
    ['global', 'sliding', 'global', 'sliding']
    """
    kinds = [kind for names, times in keys.get("attention_types") or [] for kind in list(names) * times]
    return kinds or ["local" if keys.get("local") else "global"] * keys["n_layer"]
