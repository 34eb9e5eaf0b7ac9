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
        # Where products cannot stand inside a program, every stretch between two of them is one.
        part, whole = (_plain, _compiled) if product.compiled else (_compiled, _plain)
        self._enter, self._attend, self._widen = part(self._enter), part(self._attend), part(self._widen)
        self._between, self._leave, self._logits = part(self._between), part(self._leave), part(self._logits)
        self._blocks, self._head, self._begin = whole(self._blocks), whole(self._head), _compiled(self._begin)

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
        size = max(size for size in range(1, TOGETHER + 1) if n % size == 0) if self.product.compiled else n
        for first in range(0, n, size):
            group = range(first, first + size)
            wheres, shapes = [self.cache.where(i) for i in group], [self.cache.shape(i) for i in group]
            x = self._blocks(x, positions, active, wheres, [self.model.layers[i] for i in group], shapes)
        return self._head(x, self.model.last)

    def _blocks(self, x, positions, active, wheres, layers, shapes):
        multiply, before, raw, entered = self.product.multiply, None, None, None
        for where, layer, shape in zip(wheres, layers, shapes, strict=True):
            own = vectors_of(layer)
            if before is None:
                entered = self._enter(x, own, self.model.places, "ln_1")
            else:
                x, entered = self._between(x, raw, entered, before, "mlp.c_proj", own, "ln_1")
            raw = multiply(entered, layer["attn.c_attn"])
            entered = self._attend(raw, entered, positions, active, where, own, shape)
            raw = multiply(entered, layer["attn.c_proj"])
            x, entered = self._between(x, raw, entered, own, "attn.c_proj", own, "ln_2")
            raw = multiply(entered, layer["mlp.c_fc"])
            entered = self._widen(raw, entered, own)
            raw = multiply(entered, layer["mlp.c_proj"])
            before = own
        return self._leave(x, raw, entered, before, "mlp.c_proj")

    def _head(self, x, last):
        own = vectors_of(last)
        entered = self._enter(x, own, self.model.last_places, "ln_f")
        return self._logits(self.product.multiply(entered, last["wte"]), entered, own)

    def _begin(self, ids, positions, last, table):
        return look_up(self.product, last, self.model.last_places, ids) + tf.gather(table, positions)

    def _enter(self, x, vectors, places, name):
        own = pick(vectors, places, name)
        return self.product.enter(norm(x, own["weight"], own["bias"]), self.model.limit)

    def _leave(self, x, raw, entered, vectors, name):
        return x + self.product.leave(raw, entered, pick(vectors, self.model.places, name))

    def _between(self, x, raw, entered, vectors, name, next_vectors, next_name):
        x = x + self.product.leave(raw, entered, pick(vectors, self.model.places, name))
        own = pick(next_vectors, self.model.places, next_name)
        return x, self.product.enter(norm(x, own["weight"], own["bias"]), self.model.limit)

    def _attend(self, raw, entered, positions, active, where, vectors, shape):
        found = self.product.leave(raw, entered, pick(vectors, self.model.places, "attn.c_attn"))
        q, k, v = (tf.reshape(part, self.heads) for part in tf.split(found, 3, 1))
        out = extend_and_attend(q, k, v, positions, active, where, shape)
        return self.product.enter(out, self.model.limit)

    def _widen(self, raw, entered, vectors):
        found = self.product.leave(raw, entered, pick(vectors, self.model.places, "mlp.c_fc"))
        return self.product.enter(gelu(found, self.form.activation), self.model.limit)

    def _logits(self, raw, entered, vectors):
        return self.product.leave(raw, entered, pick(vectors, self.model.last_places, "wte"))


def concrete(f: Callable[..., Any], *signature: tf.TensorSpec) -> Callable[..., Any]:
    """`f` as a graph for one signature, traced now."""
    return tf.function(f, autograph=False).get_concrete_function(*signature)


def vectors_of(layer: dict[str, Any]) -> dict[str, tf.Tensor]:
    """A layer without its matrices."""
    return {name: layer[name] for name in ("flat", "sums")}


def pick(vectors: dict[str, tf.Tensor], places: dict[str, tuple[int, int]], name: str) -> dict[str, tf.Tensor]:
    """The vectors that belong to `name`: "ln_1" -> weight, bias; "mlp.c_fc" -> scale, sums, bias."""
    found = {}
    for full, (first, behind) in places.items():
        owner, part = full.rsplit(".", 1)
        if owner == name:
            found[part] = vectors["sums" if part == "sums" else "flat"][first:behind]
    return found


def look_up(product: Product, last: dict[str, Any], places: dict[str, tuple[int, int]], ids: tf.Tensor) -> tf.Tensor:
    """Token embeddings [n, E]."""
    rows, own = product.look_up(last["wte"], ids), pick(last, places, "wte")
    return rows * tf.gather(own["scale"], ids)[:, None] if "scale" in own else rows


def _plain(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


def _compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(f, jit_compile=True, autograph=False)
