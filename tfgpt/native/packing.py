"""Weights in panels of 32 columns, each read from its first number to its last for every token.

One matrix is taken from its source, packed and let go before the next, so that the float32 original and the packed model never
both exist as a whole (unless the caller holds on to the original).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

import numpy as np

from tfgpt.model.shape import Shape
from tfgpt.native.vectors import PANEL

KINDS = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
LEVELS = 127  # int8 without -128, so that what is negative and what is positive are rounded alike
MATRICES = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "mlp_c_proj": "mlp.c_proj"}


class Dense(NamedTuple):
    """One matrix of every block: [blocks, m / 32, n, 32], and the size of a step and the bias of each column, [blocks, m].

    m is rounded up; columns that are no columns are zero in all three.
    """

    matrix: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


class Model(NamedTuple):
    """A whole model."""

    c_attn: Dense
    c_proj: Dense
    c_fc: Dense
    mlp_c_proj: Dense
    head: Dense  # the table of the tokens, as a matrix [E, n_vocab] of one block
    norms: np.ndarray  # [blocks, 4, E]: weight and bias of ln_1, then of ln_2
    last: np.ndarray  # [2, E]: those of ln_f
    positions: np.ndarray  # [n_ctx, E]
    reach: np.ndarray  # [6, blocks], see tfgpt.native.cache

    @property
    def bytes(self) -> int:
        """What one decoded token reads of it; of `positions` that is one row only."""
        parts = [x for dense in self[:5] for x in dense]  # type: ignore[union-attr]
        return sum(x.nbytes for x in (*parts, self.norms, self.last))


def pack(
    weights: Mapping[str, np.ndarray], form: Shape, dtype: str, reach: np.ndarray, *, consume: bool = False
) -> Model:
    """Pack float32 weights of GPT-2's names; with `consume` each is taken out of `weights` as it is packed."""

    def take(name: str) -> np.ndarray:
        if consume:
            assert isinstance(weights, MutableMapping)
            return np.asarray(weights.pop(name), np.float32)
        return np.asarray(weights[name], np.float32)

    width, count = form.n_embd, form.n_layer
    sizes = {"c_attn": (width, 3 * width), "c_proj": (width, width), "c_fc": (width, 4 * width)}
    sizes |= {"mlp_c_proj": (4 * width, width)}
    dense = {name: _room(count, n, m, dtype) for name, (n, m) in sizes.items()}
    norms = np.zeros((count, 4, width), np.float32)
    for i in range(count):
        for number, name in enumerate(("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias")):
            norms[i, number] = take(f"h.{i}.{name}")
        for name, whole in MATRICES.items():
            _lay(dense[name], i, take(f"h.{i}.{whole}.weight"))
            bias = take(f"h.{i}.{whole}.bias")
            dense[name].bias[i, : len(bias)] = bias
    last = np.stack([take("ln_f.weight"), take("ln_f.bias")])
    head = _room(1, width, form.n_vocab, dtype)
    # Rows that pad the vocabulary mean nothing: without them they cost nothing either, and cannot be drawn.
    _lay(head, 0, take("wte.weight")[: form.n_vocab].T)
    positions = np.ascontiguousarray(take("wpe.weight"))
    return Model(**dense, head=head, norms=norms, last=last, positions=positions, reach=reach)


def _room(count: int, n: int, m: int, dtype: str) -> Dense:
    panels = -(-m // PANEL)
    vectors = [np.zeros((count, panels * PANEL), np.float32) for _ in range(2)]
    return Dense(np.zeros((count, panels, n, PANEL), KINDS[dtype]), *vectors)


def _lay(dense: Dense, block: int, data: np.ndarray) -> None:
    """A matrix [n, m] into its panels, some at a time."""
    n, m = data.shape
    many = 64 * PANEL
    for left in range(0, m, many):
        part = np.zeros((n, min(many, -(-(m - left) // PANEL) * PANEL)), np.float32)
        part[:, : min(many, m - left)] = data[:, left : left + many]
        scale = np.ones(part.shape[1], np.float32)
        if dense.matrix.dtype == np.int8:
            most = np.maximum(part.max(0), -part.min(0))
            scale = np.where(most > 0, most / LEVELS, 1.0).astype(np.float32)
            part = np.rint(part / scale)
        elif dense.matrix.dtype == np.uint16:
            part = rounded(part)
        panels = part.reshape(n, -1, PANEL).transpose(1, 0, 2)
        dense.matrix[block, left // PANEL : left // PANEL + len(panels)] = panels
        dense.scale[block, left : left + len(scale)] = scale


def rounded(data: np.ndarray) -> np.ndarray:
    """float32 as bfloat16, in uint16: to the nearest, of two as near to the even one; what is no number stays none."""
    bits = np.ascontiguousarray(data).view(np.uint32)
    near = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isfinite(data), near, (bits >> 16) | np.isnan(data)).astype(np.uint16)
