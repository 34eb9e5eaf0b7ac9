"""Weights as the engine for accelerators wants them: each matrix once, in its type.

One matrix is taken from its source, packed and let go before the next, so that the float32 original and the packed model never
both exist as a whole (unless the caller holds on to the original).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt.generation.products import Product
from tfgpt.model.shape import Shape

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
LEVELS = 127  # int8 without -128, so that what is negative and what is positive are rounded alike


@dataclass(frozen=True)
class Packed:
    """A whole model. A layer is a dict: the four matrices by name, and `flat`.

    `flat` holds all vectors of a layer, one behind the other: a compiled program that is given one tensor instead of ten starts
    sooner. `places` says where each is: name -> (first, behind the last).
    """

    layers: list[dict[str, Any]]
    last: dict[str, Any]  # ln_f and the head, alike
    positions: tf.Tensor  # [n_ctx, E] float32
    places: dict[str, tuple[int, int]]
    last_places: dict[str, tuple[int, int]]

    @property
    def bytes(self) -> int:
        """What one decoded token reads of it; of `positions` that is one row only."""
        return sum(len_of(x) for part in [*self.layers, self.last] for x in tf.nest.flatten(part))


def len_of(x: tf.Tensor) -> int:
    """Bytes of a tensor."""
    return int(np.prod(x.shape)) * x.dtype.size


def pack(weights: Mapping[str, np.ndarray], form: Shape, product: Product, *, consume: bool = False) -> Packed:
    """Pack float32 weights of GPT-2's names for a `product`; with `consume` each is taken out of `weights` as it is packed."""

    def take(name: str) -> np.ndarray:
        if consume:
            assert isinstance(weights, MutableMapping)
            return np.asarray(weights.pop(name))
        return np.asarray(weights[name])

    def matrix(data: np.ndarray) -> tuple[tf.Tensor, dict[str, np.ndarray]]:  # data is [out, in]
        if product.dtype != "int8":
            return product.laid_out(data), {}
        data, scale = quantised(data)
        return product.laid_out(data), {"scale": scale}

    layers, places = [], {}
    for i in range(form.n_layer):
        layer, vectors = {}, {}
        for norm in ("ln_1", "ln_2"):
            vectors |= {f"{norm}.{part}": take(f"h.{i}.{norm}.{part}") for part in ("weight", "bias")}
        for name in MATRICES:
            layer[name], extra = matrix(take(f"h.{i}.{name}.weight").T)
            vectors |= {f"{name}.{part}": value for part, value in extra.items()}
            vectors[f"{name}.bias"] = take(f"h.{i}.{name}.bias")
        layer["flat"], places = joined(vectors)
        layers.append(layer)
    last: dict[str, Any] = {}
    vectors = {f"ln_f.{part}": take(f"ln_f.{part}") for part in ("weight", "bias")}
    # Rows that pad the vocabulary mean nothing: without them they cost nothing either, and cannot be drawn.
    last["wte"], extra = matrix(take("wte.weight")[: form.n_vocab])
    vectors |= {f"wte.{part}": value for part, value in extra.items()}
    last["flat"], last_places = joined(vectors)
    positions = tf.constant(take("wpe.weight"), tf.float32)
    return Packed(layers, last, positions, places, last_places)


def quantised(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [out, in] as int8 and the size of a step of each row; the largest of a row becomes 127."""
    most = np.maximum(data.max(1), -data.min(1))  # without a second matrix of absolute values
    scale = np.where(most > 0, most / LEVELS, 1.0).astype(np.float32)
    found = np.empty(data.shape, np.int8)
    for first in range(0, len(data), 4096):
        part = slice(first, first + 4096)
        found[part] = np.rint(data[part] / scale[part, None])
    return found, scale


def joined(vectors: Mapping[str, np.ndarray]) -> tuple[tf.Tensor, dict[str, tuple[int, int]]]:
    """All vectors in one, and the place of each."""
    ends = np.cumsum([0, *(len(value) for value in vectors.values())])
    places = {
        name: (int(first), int(first) + len(value)) for first, (name, value) in zip(ends, vectors.items(), strict=False)
    }
    return tf.constant(np.concatenate(list(vectors.values())).astype(np.float32)), places
