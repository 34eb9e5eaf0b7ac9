"""One more token in each of some slots: the compiled programs of a decoding step.

Whatever enters a product ends in a division. XLA on a CPU computes cheap things again inside a product's inner loop, once for
every output; a division it does not take for cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfgpt.generation.cache import Cache, extend_and_attend
from tfgpt.generation.packing import Packed
from tfgpt.generation.products import Product
from tfgpt.model.layers import EPSILON
from tfgpt.model.shape import Shape

# Blocks that are compiled as one program, at most: twelve save 7 % of a step, and take two to six times as long to compile.
TOGETHER = 4


def norm(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """LayerNorm over the last axis. A square root and a division are right to the last bit wherever they are computed; the
    reciprocal of a root is another one at the end of a vector than in its midst."""
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(centred * centred, -1, keepdims=True) + EPSILON)
    return (centred * weight + bias * deviation) / deviation


def gelu(x: tf.Tensor, kind: str) -> tf.Tensor:
    """GPT-2's GELU; 1 + tanh(u) is 2 / (1 + exp(-2 u)). Or the exact one."""
    if kind == "gelu":
        return x / (2.0 / (1.0 + tf.math.erf(x * math.sqrt(0.5))))
    return x / (1.0 + tf.exp(-2.0 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


class Steps:
    """The step of a packed model over a cache with `slots` slots."""

    def __init__(self, model: Packed, form: Shape, cache: Cache, product: Product, *, slots: int) -> None:
        self.model, self.form, self.cache, self.product, self.slots = model, form, cache, product, slots
        self.heads = (slots, form.n_head, form.n_embd // form.n_head)
        self._blocks, self._head, self._begin = (_compiled(f) for f in (self._blocks, self._head, self._begin))

    @cached_property
    def step(self) -> Callable[..., Any]:
        """ids [slots], positions [slots], active [slots] bool -> logits [slots, n_vocab] after one more id in active slots."""
        number = tf.TensorSpec([self.slots], tf.int32)
        return concrete(self._step, number, number, tf.TensorSpec([self.slots], tf.bool))

    @cached_property
    def head(self) -> Callable[..., Any]:
        """What the blocks give [slots, E] -> logits [slots, n_vocab]."""
        return concrete(
            lambda x: self._head(x, self.model.last), tf.TensorSpec([self.slots, self.form.n_embd], tf.float32)
        )

    def _step(self, ids: tf.Tensor, positions: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        n = self.form.n_layer
        x = self._begin(ids, positions, self.model.last, self.model.positions)
        size = max(size for size in range(1, TOGETHER + 1) if n % size == 0)
        for first in range(0, n, size):
            group = range(first, first + size)
            wheres, shapes = [self.cache.where(i) for i in group], [self.cache.shape(i) for i in group]
            x = self._blocks(x, positions, active, wheres, [self.model.layers[i] for i in group], shapes)
        return self._head(x, self.model.last)

    def _blocks(self, x, positions, active, wheres, layers, shapes):
        for where, layer, shape in zip(wheres, layers, shapes, strict=True):
            q, k, v = tf.split(self._dense(self._norm(x, layer, "ln_1"), layer, "attn.c_attn"), 3, 1)
            q, k, v = (tf.reshape(part, self.heads) for part in (q, k, v))
            out = extend_and_attend(q, k, v, positions, active, where, shape)
            x = x + self._dense(out, layer, "attn.c_proj")
            wide = gelu(self._dense(self._norm(x, layer, "ln_2"), layer, "mlp.c_fc"), self.form.activation)
            x = x + self._dense(wide, layer, "mlp.c_proj")
        return x

    def _head(self, x, last):
        places = self.model.last_places
        own = pick(last, places, "ln_f")
        return self.product.dense(norm(x, own["weight"], own["bias"]), last["wte"], pick(last, places, "wte"))

    def _begin(self, ids, positions, last, table):
        return look_up(self.product, last, self.model.last_places, ids) + tf.gather(table, positions)

    def _norm(self, x, layer, name):
        own = pick(layer, self.model.places, name)
        return norm(x, own["weight"], own["bias"])

    def _dense(self, x, layer, name):
        return self.product.dense(x, layer[name], pick(layer, self.model.places, name))


def concrete(f: Callable[..., Any], *signature: tf.TensorSpec) -> Callable[..., Any]:
    """`f` as a graph for one signature, traced now."""
    return tf.function(f, autograph=False).get_concrete_function(*signature)


def pick(layer: dict[str, Any], places: dict[str, tuple[int, int]], name: str) -> dict[str, tf.Tensor]:
    """The vectors that belong to `name`: "ln_1" -> weight, bias; "mlp.c_fc" -> scale, bias."""
    found = {}
    for full, (first, behind) in places.items():
        owner, part = full.rsplit(".", 1)
        if owner == name:
            found[part] = layer["flat"][first:behind]
    return found


def look_up(product: Product, last: dict[str, Any], places: dict[str, tuple[int, int]], ids: tf.Tensor) -> tf.Tensor:
    """Token embeddings [n, E]."""
    rows, own = product.look_up(last["wte"], ids), pick(last, places, "wte")
    return rows * tf.gather(own["scale"], ids)[:, None] if "scale" in own else rows


def _compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(f, jit_compile=True, autograph=False)
