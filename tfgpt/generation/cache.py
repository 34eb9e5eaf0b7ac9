"""Keys and values of the positions that a model has seen, and attention of new tokens over them.

Every slot has a place for each position of the context; in blocks of local attention, for one span only, which is written
over as the text goes on. A variable is written in place, by compiled programs too, as long as nobody else holds its value.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt.model.attention import HIDDEN
from tfgpt.model.shape import Shape

CHUNK = 64  # keys looked at in one go; the cache is read as far as it is used, in these
PART = 16  # numbers that are added in one go, at most


class Cache:
    """Variables of all blocks: `keys[i]` [slots, chunks, H, D, chunk] and `values[i]` [slots, H, places, D], float32.

    Keys stand on their side, so that both sums of attention run along what is contiguous for the processor's vectors; chunk
    by chunk, or the numbers of one key were as many pages of memory apart.
    """

    def __init__(self, form: Shape, *, slots: int) -> None:
        depth = form.n_embd // form.n_head
        self.spans = [form.block if kind == "local" else form.n_ctx for kind in form.attention]
        self.shifts = [form.shift(i) if kind == "local" else 0 for i, kind in enumerate(form.attention)]
        self.windows = [form.window if kind == "sliding" else form.n_ctx for kind in form.attention]
        self.keys, self.values = [], []
        for span in self.spans:
            places = span if span <= CHUNK else -(-span // CHUNK) * CHUNK
            chunk = min(CHUNK, places)
            keys = tf.zeros((slots, places // chunk, form.n_head, depth, chunk))
            self.keys.append(tf.Variable(keys, trainable=False))
            self.values.append(tf.Variable(tf.zeros((slots, form.n_head, places, depth)), trainable=False))

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(4 * int(tf.size(x)) for x in self.keys + self.values)

    def where(self, layer: int) -> list[tf.Tensor]:
        """What a program is told about a block: handles of its keys and values; span, shift and window of its attention."""
        keys, values = self.keys[layer], self.values[layer]
        return [keys.handle, values.handle, *(tf.constant(x[layer]) for x in (self.spans, self.shifts, self.windows))]

    def shape(self, layer: int) -> tuple[int, ...]:
        """Of the keys of a block: [slots, chunks, H, D, chunk]."""
        return tuple(self.keys[layer].shape)


def fill(slot: tf.Tensor, k: tf.Tensor, v: tf.Tensor, keys: tf.Variable, values: tf.Variable, *, span, shift):
    """Write the keys and values of a whole prompt, each [H, T, D], into a slot: those of its last span."""
    length = tf.shape(k)[1]
    first = tf.maximum((length - 1 + shift) // span * span - shift, 0)  # of the span that the last position is in
    place, count = (first + shift) % span, length - first
    _, _, heads, depth, chunk = keys.shape
    # What fills the chunks up lies before the text or behind it, where nobody looks.
    whole = tf.pad(k[:, first:], [[0, 0], [place, -(place + count) % chunk], [0, 0]])
    whole = tf.transpose(tf.reshape(whole, (heads, -1, chunk, depth)), (1, 0, 3, 2))
    keys[slot, : tf.shape(whole)[0]].assign(whole)
    values[slot, :, place : place + count].assign(v[:, first:])


def summed(factors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """The sum over n of `factors` [..., n] times `rows` [..., n, width]. To be compiled.

    In parts of at most sixteen, whose loop LLVM unrolls, so that it works on whole vectors of the width; of a longer sum XLA
    writes all products to memory and adds them one by one, which takes five times as long.
    """
    *outer, count, width = rows.shape
    part = next(n for n in range(PART, 0, -1) if count % n == 0)
    if part == 1:
        return tf.reduce_sum(factors[..., None] * rows, -2)
    shape = (*outer, count // part, part)
    parts = tf.reduce_sum(tf.reshape(factors, shape)[..., None] * tf.reshape(rows, (*shape, width)), -2)
    return tf.add_n(tf.unstack(parts, axis=-2))


def extend_and_attend(q, k, v, positions, active, where, shape):
    """Write one new token a slot, and let it attend to what its slot holds and to itself. To be compiled.

    q, k, v: [slots, H, D]; `positions` [slots] are the tokens' own, or the next ones of slots that are not `active`: what is
    written for those is written over before anybody looks at it.
    Returns [slots, H * D]. A slot's result is the same to the last bit whatever the others hold: chunks behind its own last
    one add exact zeros.
    """
    # The only way to XLA's update in place: TensorFlow's own scatter becomes a loop over single numbers.
    from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

    handle_k, handle_v, span, shift, window = where
    slots, _, heads, depth, chunk = shape
    index = (positions + shift) % span
    first = tf.maximum(tf.where(positions + shift < span, shift, 0), index - window + 1)
    keys = tf.raw_ops.ReadVariableOp(resource=handle_k, dtype=tf.float32)
    values = tf.raw_ops.ReadVariableOp(resource=handle_v, dtype=tf.float32)
    zero = tf.constant(0)
    for slot in range(slots):
        at_key = tf.stack([tf.constant(slot), index[slot] // chunk, zero, zero, index[slot] % chunk])
        at_value = tf.stack([tf.constant(slot), zero, index[slot], zero])
        new_key, new_value = k[slot, :, :, None][None, None], v[slot, :, None][None]
        keys = dynamic_update_slice(keys, new_key, at_key)
        values = dynamic_update_slice(values, new_value, at_value)
    tf.raw_ops.AssignVariableOp(resource=handle_k, value=keys)
    tf.raw_ops.AssignVariableOp(resource=handle_v, value=values)

    used = tf.where(active, index, 0)
    chunks = tf.reduce_max(used) // chunk + 1
    oldest = tf.reduce_min(tf.where(active, first, span)) // chunk  # what no slot sees any more is not looked at
    q = q * depth**-0.5

    def look(number, top, total, found):
        some_keys = tf.slice(keys, [0, number, 0, 0, 0], [slots, 1, heads, depth, chunk])[:, 0]
        some_values = tf.slice(values, [0, 0, number * chunk, 0], [slots, heads, chunk, depth])
        place = number * chunk + tf.range(chunk)
        seen = (place[None] >= first[:, None]) & (place[None] <= index[:, None])  # [slots, chunk]
        scores = tf.where(seen[:, None], summed(q, some_keys), HIDDEN)  # [slots, H, chunk]
        new_top = tf.maximum(top, tf.reduce_max(scores, -1, keepdims=True))
        less, p = tf.exp(top - new_top), tf.exp(scores - new_top)
        total = total * less + tf.reduce_sum(p, -1, keepdims=True)
        found = tf.reshape(found, (slots, heads, depth)) * less + summed(p, some_values)
        return number + 1, new_top, total, tf.reshape(found, (slots, -1))

    start = [
        tf.minimum(oldest, chunks - 1),
        tf.fill((slots, heads, 1), HIDDEN),
        tf.zeros((slots, heads, 1)),
        # Flat: XLA looks each number up by head and place again for every output of the product that comes next, if it can.
        tf.zeros((slots, heads * depth)),
    ]
    _, _, total, found = tf.while_loop(lambda number, *_: number < chunks, look, start)
    return found / tf.repeat(total[..., 0], depth, 1)
