"""Keys and values of all slots, flat, so that compiled code finds its way by numbers alone.

Of a block, keys are [slots, heads, places / 32, depth, 32] and values [slots, heads, depth / 32, places, 32]: panels, as weights are.
The system gives memory as it is first written to, so what no text has reached yet costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt.model.shape import Shape
from tfgpt.native.vectors import PANEL


class Cache(NamedTuple):
    """All numbers."""

    keys: np.ndarray
    values: np.ndarray


def reach_of(form: Shape, *, slots: int) -> np.ndarray:
    """[6, blocks]: where a block's keys and its values begin; places of a slot; span, shift and window of its attention.

    Local attention sees one span, so that a ring of its size is all it needs.
    """
    depth = form.n_embd // form.n_head
    deep = -(-depth // PANEL) * PANEL
    found = np.zeros((6, form.n_layer), np.int64)
    keys = values = 0
    for i, kind in enumerate(form.attention):
        span = form.block if kind == "local" else form.n_ctx
        places = -(-span // PANEL) * PANEL
        shift = form.shift(i) if kind == "local" else 0
        found[:, i] = keys, values, places, span, shift, form.window if kind == "sliding" else form.n_ctx
        keys += slots * form.n_head * places * depth
        values += slots * form.n_head * places * deep
    return found


def cache_of(form: Shape, reach: np.ndarray, *, slots: int) -> Cache:
    """Room for it."""
    depth = form.n_embd // form.n_head
    places = slots * form.n_head * int(reach[2].sum())
    return Cache(np.zeros(places * depth, np.float32), np.zeros(places * (-(-depth // PANEL) * PANEL), np.float32))
