"""A GPT as a TensorFlow module of its own: weights, the forward pass over a cache, and the loop that draws ids.

Nothing of `tfgpt.generation` is in it, for a server runs it without tfgpt; but it follows the same rules, and at temperature 0
it writes the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfgpt.errors import UserError
from tfgpt.export.graph_bpe import Codec
from tfgpt.weights.source import Source

EPSILON = 1e-5  # GPT-2's
HIDDEN = -1e30  # a score that no softmax sees
ACTIVATIONS = ("gelu_tanh", "gelu")
KINDS = ("global", "local", "sliding")
BLOCK, OFFSET = 128, 16  # tfgpt's defaults for spans of local attention


class Writer(tf.Module):
    """The model of a source, one text at a time.

    >>> writer = Writer(source, codec)                                                     # doctest: +SKIP
    >>> writer.logits(tf.constant([464, 2068])).shape                                      # doctest: +SKIP
    TensorShape([2, 50257])
    """

    def __init__(self, source: Source, codec: Codec) -> None:
        super().__init__(name="writer")
        keys = source.keys
        self._kinds, self._activation = kinds_of(source), keys.get("activation") or ACTIVATIONS[0]
        if self._activation not in ACTIVATIONS:
            raise UserError(
                f'the activation "{self._activation}" cannot be written as a TensorFlow graph',
                where=source.path,
                nearest=" ".join(ACTIVATIONS),
            )
        self.n_ctx, self.n_vocab = keys["n_ctx"], keys["n_vocab"]
        self._heads, self._width = keys["n_head"], keys["n_embd"]
        self._window = keys.get("attention_window") or 0
        self._block = keys.get("fixed_attn_block_size") or BLOCK
        self._offset = OFFSET if keys.get("layer_offset") is None else keys["layer_offset"]
        self._codec = codec
        # One array is in memory beside the variables at a time.
        self.weights = {
            name: tf.Variable(tensor.read(), trainable=False, dtype=tf.float32, name=name.replace(".", "_"))
            for name, tensor in source.tensors.items()
        }

    def logits(self, ids: tf.Tensor) -> tf.Tensor:
        """Logits [T, n_vocab] at each of the ids [T], T <= n_ctx."""
        return self._head(self._read(ids, tf.size(ids))[0])

    def write(self, ids, *, length, temperature, top_k, top_p, seed) -> tf.Tensor:
        """New ids [N] after those of a prompt [T]: at most `length`; an end-of-text is the last of them.

        Where prompt and output do not fit the context, it goes by the rule of `tfgpt.generation.window`: of a long prompt the
        end is read, and a full context goes on from its last half.
        """
        begin, half = tf.constant(self._codec.beginning, tf.int32), max(1, self.n_ctx // 2)
        ids = tf.cond(tf.size(ids) > 0, lambda: ids, lambda: begin)
        prompt, length = tf.size(ids), tf.maximum(length, 0)
        # The last new token is drawn but not read, so it needs no place.
        spare = tf.maximum(self.n_ctx - tf.maximum(length - 1, 0), half)
        first = tf.cond(prompt > self.n_ctx, lambda: ids[-spare:], lambda: ids)
        room = tf.minimum(self.n_ctx, tf.size(first) + tf.minimum(length, self.n_ctx))

        def goes_on(ids):
            new = tf.size(ids) - prompt
            return (new < length) & ((new == 0) | (ids[-1] != self._codec.eot))

        def drawn(ids, x):
            scores = self._head(x[-1:])[0, : self._codec.size]
            token = draw(scores, temperature, top_k, top_p, tf.stack([seed, tf.cast(tf.size(ids) - prompt, tf.int64)]))
            return tf.concat([ids, token[None]], 0)

        def context(ids, reads):
            x, cache = self._read(reads, room)
            state = drawn(ids, x), tf.size(reads), cache
            ids, *_ = tf.while_loop(
                lambda ids, held, _: goes_on(ids) & (held < self.n_ctx),
                token,
                state,
                shapes(state),
                parallel_iterations=1,
            )
            return ids, ids[-half:]

        def token(ids, held, cache):
            x, cache = self._step(ids[-1:], held, cache)
            return drawn(ids, x), held + 1, cache

        def shapes(state):
            _, held, cache = state
            return tf.TensorShape([None]), held.shape, [one.shape for one in cache]

        growing = tf.TensorShape([None])
        found, _ = tf.while_loop(
            lambda ids, _: goes_on(ids), context, (ids, first), (growing, growing), parallel_iterations=1
        )
        return found[prompt:]

    def _read(self, ids, room):
        """The last layer's output [T, E] for a text [T], and a cache with place for `room` tokens, [H, room, D] each."""
        cache: list[tf.Tensor] = []

        def keep(_, *fresh):
            kept = [tf.pad(one, [[0, 0], [0, room - tf.size(ids)], [0, 0]]) for one in fresh]
            cache.extend(tf.ensure_shape(one, [self._heads, None, self._width // self._heads]) for one in kept)
            return kept

        return self._through(ids, tf.range(tf.size(ids)), keep), cache

    def _step(self, ids, held, old):
        """The same for one more id [1] of a text of which the cache holds `held` tokens."""
        cache: list[tf.Tensor] = []
        places = tf.stack([tf.range(self._heads), tf.fill([self._heads], held)], 1)

        def keep(i, *fresh):
            kept = [
                tf.tensor_scatter_nd_update(one, places, new[:, 0])
                for one, new in zip(old[2 * i : 2 * i + 2], fresh, strict=True)
            ]
            cache.extend(kept)
            return kept

        return self._through(ids, held[None], keep), cache

    def _through(self, ids, places, keep: Callable[..., Any]):
        """Output [T, E] for ids [T] at these places; `keep(i, k, v)` gives what they attend to in block i."""
        x = tf.gather(self.weights["wte.weight"], ids) + tf.gather(self.weights["wpe.weight"], places)
        depth = self._width // self._heads
        for i in range(len(self._kinds)):
            h = f"h.{i}."
            qkv = self._dense(self._norm(x, h + "ln_1"), h + "attn.c_attn")
            q, k, v = tf.unstack(tf.transpose(tf.reshape(qkv, (-1, 3, self._heads, depth)), (1, 2, 0, 3)))  # [H, T, D]
            k, v = keep(i, k, v)
            scores = tf.matmul(q * depth**-0.5, k, transpose_b=True)  # [H, T, room]
            p = tf.nn.softmax(tf.where(self._seen(i, places[:, None], tf.range(tf.shape(k)[1])[None]), scores, HIDDEN))
            mixed = tf.reshape(tf.transpose(tf.matmul(p, v), (1, 0, 2)), (-1, self._width))
            x = x + self._dense(mixed, h + "attn.c_proj")
            wide = self._dense(self._norm(x, h + "ln_2"), h + "mlp.c_fc")
            x = x + self._dense(tf.nn.gelu(wide, approximate=self._activation == "gelu_tanh"), h + "mlp.c_proj")
        return self._norm(x, "ln_f")

    def _seen(self, i, asks, keys):
        kind, seen = self._kinds[i], keys <= asks
        if kind == "sliding":
            seen &= keys > asks - self._window
        if kind == "local":
            shift = (i * self._offset) % self._block
            seen &= (keys + shift) // self._block == (asks + shift) // self._block
        return seen

    def _dense(self, x, name):
        return tf.matmul(x, self.weights[name + ".weight"]) + self.weights[name + ".bias"]

    def _norm(self, x, name):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        normal = (x - mean) * tf.math.rsqrt(variance + EPSILON)
        return normal * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def _head(self, x):
        return tf.matmul(x, self.weights["wte.weight"], transpose_b=True)


def kinds_of(source: Source) -> list[str]:
    """The kind of attention of each block, or a UserError where a graph cannot do it."""
    keys: Mapping[str, Any] = source.keys
    kinds = [kind for names, times in keys.get("attention_types") or [] for kind in list(names) * times]
    kinds = kinds or ["local" if keys.get("local") else "global"] * keys["n_layer"]
    if strange := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(
            f'attention of the kind "{strange[0]}" cannot be written as a TensorFlow graph',
            where=source.path,
            nearest=" ".join(KINDS),
        )
    if len(kinds) != keys["n_layer"]:
        raise UserError(
            f"attention_types covers {len(kinds)} blocks, but n_layer is {keys['n_layer']}", where=source.path
        )
    if "sliding" in kinds and not (keys.get("attention_window") or 0) > 0:
        raise UserError("sliding attention needs an attention_window of 1 or more", where=source.path)
    return kinds


def draw(logits, temperature, top_k, top_p, seed) -> tf.Tensor:
    """A token, int32, by the rules of `tfgpt.generation.rules`; the seed [2] alone decides which.

    Whatever is not above 0 as a temperature takes the highest logit, the lower id of equals.
    """
    logits = tf.debugging.check_numerics(logits, "the model's logits are not finite numbers")

    def sampled():
        # Sorted once, of equals the lower id first; every rule then keeps some from the front.
        values, order = tf.math.top_k(logits, tf.size(logits))
        k = tf.where((top_k > 0) & (top_k < tf.size(logits)), top_k, tf.size(logits))
        kept = tf.math.count_nonzero(values >= values[k - 1], dtype=tf.int32)
        shifted = tf.cast(values[:kept] - values[0], tf.float64)
        edges = tf.cumsum(tf.exp(shifted / tf.cast(tf.maximum(temperature, 1e-30), tf.float64)))
        enough = 1 + tf.math.count_nonzero(edges[:-1] < tf.cast(top_p, tf.float64) * edges[-1], dtype=tf.int32)
        edges = edges[: tf.where(top_p < 1, enough, kept)]
        # The generator is named, or each kind of device would draw other numbers.
        number = tf.random.stateless_uniform([], seed, dtype=tf.float64, alg="philox") * edges[-1]
        # Should rounding bring it to the very end, it belongs to the last token that has any mass.
        place = tf.minimum(tf.searchsorted(edges, number[None], side="right"), tf.searchsorted(edges, edges[-1:]))
        return order[place[0]]

    return tf.cond(temperature > 0, sampled, lambda: tf.argmax(logits, output_type=tf.int32))
