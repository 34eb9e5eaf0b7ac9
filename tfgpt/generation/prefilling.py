"""A whole prompt in one pass: keys and values into a slot, and what comes out at its end. Any length, nothing compiled for it.

Products of many tokens run at the processor's speed in TensorFlow's own kernels, so that a program for each length would only
cost the time to compile it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfgpt.generation.cache import Cache, fill
from tfgpt.generation.packing import Packed
from tfgpt.generation.products import Product
from tfgpt.generation.stepping import concrete, look_up, pick
from tfgpt.model.attention import HIDDEN, QUERIES
from tfgpt.model.layers import gelu, norm
from tfgpt.model.shape import Shape


class Prefill:
    """Runs prompts through a packed model."""

    def __init__(self, model: Packed, form: Shape, cache: Cache, product: Product) -> None:
        self.model, self.form, self.cache, self.product = model, form, cache, product
        self._layer = tf.function(self._one_layer, autograph=False)  # traced once, not once a layer

    @cached_property
    def run(self) -> Callable[..., Any]:
        """ids [T], slot -> what the blocks give at the last of the ids, [1, E]; the slot holds all of them afterwards."""
        return concrete(self._stored, tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32))

    @cached_property
    def hidden(self) -> Callable[..., Any]:
        """ids [T] -> what enters the head at each of them, [T, E]."""
        return concrete(self._all, tf.TensorSpec([None], tf.int32))

    def _stored(self, ids, slot):
        x = self._embed(ids)
        for i in range(self.form.n_layer):
            x, k, v = self._through(i, x)
            keys, values = self.cache.keys[i], self.cache.values[i]
            fill(slot, k, v, keys, values, span=self.cache.spans[i], shift=self.cache.shifts[i])
        return x[-1:]

    def _all(self, ids):
        x = self._embed(ids)
        for i in range(self.form.n_layer):
            x, _, _ = self._through(i, x)
        own = pick(self.model.last, self.model.last_places, "ln_f")
        return norm(x, own["weight"], own["bias"])

    def _embed(self, ids):
        x = look_up(self.product, self.model.last, self.model.last_places, ids)
        return x + self.model.positions[: tf.shape(ids)[0]]

    def _through(self, i, x):
        local = self.form.attention[i] == "local"
        span, shift = tf.constant(self.cache.spans[i]), tf.constant(self.cache.shifts[i])
        return self._layer(x, self.model.layers[i], span, shift, local)

    def _one_layer(self, x, layer, span, shift, local):
        def vectors(name):
            return pick(layer, self.model.places, name)

        def dense(x, name):
            own = vectors(name)
            # Or the casts of all layers, which wait for nothing, would be made at once, and all be in memory.
            with tf.control_dependencies([x]):
                found = self.product.many(x, layer[name])
            return (found * own["scale"] if "scale" in own else found) + own["bias"]

        own, heads, width = vectors("ln_1"), self.form.n_head, self.form.n_embd
        qkv = tf.reshape(dense(norm(x, own["weight"], own["bias"]), "attn.c_attn"), (-1, 3, heads, width // heads))
        q, k, v = tf.unstack(tf.transpose(qkv, (1, 2, 0, 3)))  # [H, T, D] each
        x = x + dense(attention(q, k, v, span, shift, local=local), "attn.c_proj")
        own = vectors("ln_2")
        h = dense(norm(x, own["weight"], own["bias"]), "mlp.c_fc")
        return x + dense(gelu(h), "mlp.c_proj"), k, v


def attention(q, k, v, span, shift, *, local: bool):
    """Causal attention of a prompt over itself, q, k, v: [H, T, D]; local: inside spans. Returns [T, H * D]."""
    heads, depth = q.shape[0], q.shape[2]
    length = tf.shape(q)[1]
    q = q * depth**-0.5

    def look(first, done):
        behind = tf.minimum(first + QUERIES, length)
        since = tf.maximum((first + shift) // span * span - shift, 0) if local else tf.constant(0)
        scores = tf.matmul(q[:, first:behind], k[:, since:behind], transpose_b=True)
        asks, seen = tf.range(first, behind)[:, None], tf.range(since, behind)[None]
        allowed = seen <= asks
        if local:
            allowed &= (seen + shift) // span == (asks + shift) // span
        p = tf.nn.softmax(tf.where(allowed, scores, HIDDEN))
        out = tf.reshape(tf.transpose(tf.matmul(p, v[:, since:behind]), (1, 0, 2)), (-1, heads * depth))
        return behind, tf.concat([done, out], 0)

    shapes = [tf.TensorShape([]), tf.TensorShape([None, heads * depth])]
    start = [tf.constant(0), tf.zeros((0, heads * depth))]
    return tf.while_loop(lambda first, _: first < length, look, start, shape_invariants=shapes, parallel_iterations=1)[
        1
    ]
