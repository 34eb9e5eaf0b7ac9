"""Whole prompts in one pass: keys and values into slots, and what comes out at their ends. Any length, nothing compiled for it.

Products of many tokens run at the processor's speed in TensorFlow's own kernels, so that a program for each length would only
cost the time to compile it. Several prompts stand one behind the other, without padding; only attention knows them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfgpt.generation.cache import Cache, fill
from tfgpt.generation.packing import Packed
from tfgpt.generation.products import Product
from tfgpt.generation.stepping import concrete, look_up, norm, pick
from tfgpt.model.attention import HIDDEN, QUERIES
from tfgpt.model.layers import gelu
from tfgpt.model.shape import Shape


class Prefill:
    """Runs prompts through a packed model."""

    def __init__(self, model: Packed, form: Shape, cache: Cache, product: Product) -> None:
        self.model, self.form, self.cache, self.product = model, form, cache, product
        # Traced once, not once a layer. No product of weights may stand in there: oneDNN might keep those of the first layer
        # that comes.
        self._attend = tf.function(attention, autograph=False)
        self._fill = tf.function(_fill_each, autograph=False)

    @cached_property
    def run(self) -> Callable[..., Any]:
        """ids of n prompts one behind the other [T], the lengths [n] and slots [n] of the prompts -> what the blocks give at
        the last of each, [n, E]; each slot holds its prompt afterwards."""
        numbers = tf.TensorSpec([None], tf.int32)
        return concrete(self._stored, numbers, numbers, numbers)

    @cached_property
    def hidden(self) -> Callable[..., Any]:
        """ids [T] of one text -> what enters the head at each of them, [T, E]."""
        return concrete(self._all, tf.TensorSpec([None], tf.int32))

    def _stored(self, ids, lengths, slots):
        ends, blocks = tf.cumsum(lengths), blocks_of(lengths)
        x = self._embed(ids, lengths)
        for i in range(self.form.n_layer):
            x, k, v = self._through(i, x, blocks)
            span, shift = tf.constant(self.cache.spans[i]), tf.constant(self.cache.shifts[i])
            self._fill(k, v, ends, slots, self.cache.keys[i], self.cache.values[i], span, shift)
        return tf.gather(x, ends - 1)

    def _all(self, ids):
        length = tf.shape(ids)
        x = self._embed(ids, length)
        for i in range(self.form.n_layer):
            x, _, _ = self._through(i, x, blocks_of(length))
        own = pick(self.model.last, self.model.last_places, "ln_f")
        return norm(x, own["weight"], own["bias"])

    def _embed(self, ids, lengths):
        x = look_up(self.product, self.model.last, self.model.last_places, ids)
        place = tf.range(tf.shape(ids)[0]) - tf.repeat(tf.cumsum(lengths, exclusive=True), lengths)
        return x + tf.gather(self.model.positions, place)

    def _through(self, i, x, blocks):
        layer, heads, width = self.model.layers[i], self.form.n_head, self.form.n_embd

        def vectors(name):
            return pick(layer, self.model.places, name)

        def dense(x, name):
            # Or the casts of all layers, which wait for nothing, would be made at once, and all be in memory.
            with tf.control_dependencies([x]):
                return self.product.dense(x, layer[name], vectors(name))

        own = vectors("ln_1")
        reach = [tf.constant(x[i]) for x in (self.cache.spans, self.cache.shifts, self.cache.windows)]
        qkv = tf.reshape(dense(norm(x, own["weight"], own["bias"]), "attn.c_attn"), (-1, 3, heads, width // heads))
        q, k, v = tf.unstack(tf.transpose(qkv, (1, 2, 0, 3)))  # [H, T, D] each
        out = self._attend(q, k, v, blocks, *reach, kind=self.form.attention[i])
        x = x + dense(out, "attn.c_proj")
        own = vectors("ln_2")
        h = dense(norm(x, own["weight"], own["bias"]), "mlp.c_fc")
        return x + dense(gelu(h, self.form.activation), "mlp.c_proj"), k, v


def _fill_each(k, v, ends, slots, keys, values, span, shift) -> None:
    def one(number, first):
        here = slice(first, ends[number])
        fill(slots[number], k[:, here], v[:, here], keys, values, span=span, shift=shift)
        return number + 1, ends[number]

    tf.while_loop(lambda number, _: number < tf.size(ends), one, [tf.constant(0)] * 2, parallel_iterations=1)


def blocks_of(lengths: tf.Tensor) -> tf.Tensor:
    """[blocks, 3]: where the prompt of each block of queries begins, where the block does, and where it ends."""
    counts = -(-lengths // QUERIES)
    begin = tf.repeat(tf.cumsum(lengths, exclusive=True), counts)
    first = begin + QUERIES * (tf.range(tf.size(begin)) - tf.repeat(tf.cumsum(counts, exclusive=True), counts))
    behind = tf.minimum(first + QUERIES, tf.repeat(tf.cumsum(lengths), counts))
    return tf.stack([begin, first, behind], 1)


def attention(q, k, v, blocks, span, shift, window, *, kind: str):
    """Causal attention of prompts that stand one behind the other, each over itself; local: inside spans; sliding: in a window.

    q, k, v: [H, T, D]; `blocks` as `blocks_of` gives them. Returns [T, H * D].
    """
    heads, depth = q.shape[0], q.shape[2]
    q = q * depth**-0.5

    def look(number, done):
        begin, first, behind = tf.unstack(blocks[number])
        since = begin
        if kind == "local":
            since += tf.maximum((first - begin + shift) // span * span - shift, 0)
        elif kind == "sliding":
            since += tf.maximum(first - begin - window + 1, 0)
        scores = tf.matmul(q[:, first:behind], k[:, since:behind], transpose_b=True)
        asks, seen = tf.range(first, behind)[:, None], tf.range(since, behind)[None]
        allowed = seen <= asks
        if kind == "sliding":
            allowed &= seen > asks - window
        elif kind == "local":
            allowed &= (seen - begin + shift) // span == (asks - begin + shift) // span
        p = tf.nn.softmax(tf.where(allowed, scores, HIDDEN))
        out = tf.reshape(tf.transpose(tf.matmul(p, v[:, since:behind]), (1, 0, 2)), (-1, heads * depth))
        return number + 1, done.write(number, out)

    count = tf.shape(blocks)[0]
    done = tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=(None, heads * depth))
    _, done = tf.while_loop(lambda number, _: number < count, look, [tf.constant(0), done], parallel_iterations=1)
    return tf.ensure_shape(done.concat(), (None, heads * depth))
