"""A TensorFlow SavedModel that turns a prompt into text, for TF Serving or any process that has TensorFlow and nothing else.

Signatures, with B texts in a batch; a text is what it is, whatever stands beside it in the batch:

    serving_default  prompt [B] string -> text [B]: what comes behind the prompt, by DEFAULTS; the same prompt, the same text
    generate         prompt [B] string, and as single numbers length int32 (most new tokens), temperature float32 (0 and below:
                     the likeliest token), top_k int32 (0 and below: all), top_p float32 (1 and above: all), seed int64
                     -> text [B], and tokens [B, N] int32, an end-of-text included, -1 behind the end of each
    encode           text [B] string -> ids [B, T] int32, -1 behind the end of each
    logits           ids [B, T] int32, T up to n_ctx, -1 where a text has ended -> logits [B, T, n_vocab]

A text ends with an end-of-text or after `length` tokens. A full context goes on from its last half.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt.errors import UserError
from tfgpt.export.graph_bpe import codec
from tfgpt.export.graph_text import Writer
from tfgpt.export.keras_file import write_beside
from tfgpt.weights.source import Source

DEFAULTS = {"length": 64, "temperature": 1.0, "top_k": 40, "top_p": 1.0, "seed": 0}
HOW = (
    "tf.saved_model.load(FOLDER).signatures: serving_default(prompt), generate(prompt, length, temperature, top_k, top_p, seed),",
    "encode(text), logits(ids). TensorFlow Serving wants this folder inside another one, named by a number: my_model/1.",
)
# Texts of a batch that are worked on at the same time; each has a cache of its own in memory.
AT_ONCE = 4


def write(source: Source, folder: str) -> None:
    """Write a SavedModel into `folder`, which is there and empty; TF Serving wants it in a folder of its number: gpt/1.

    >>> write(source, "gpt/1")                                                             # doctest: +SKIP
    >>> loaded = tf.saved_model.load("gpt/1").signatures["serving_default"]                # doctest: +SKIP
    >>> loaded(prompt=tf.constant(["To be"]))["text"].numpy()                              # doctest: +SKIP
    array([b' or not to be'], dtype=object)
    """
    if source.tokenizer is None:
        raise UserError(
            "a SavedModel reads and writes text, and there is no tokenizer beside this model",
            where=source.path,
            fix="put its encoder.json and vocab.bpe into that folder",
        )
    module = Text(source)
    names = ("serving_default", "generate", "encode", "logits")
    tf.saved_model.save(module, folder, signatures={name: getattr(module, name) for name in names})
    write_beside(source, folder, HOW)


class Text(tf.Module):
    """A model and its tokenizer, with one function a signature."""

    def __init__(self, source: Source) -> None:
        super().__init__(name="text")
        assert source.tokenizer is not None
        self.codec = codec(source.tokenizer, source.keys["n_vocab"])
        self.writer = Writer(source, self.codec)
        texts, whole, number = (
            tf.TensorSpec([None], tf.string),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.float32),
        )

        def function(body, **specs):
            named = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()]
            return tf.function(body, input_signature=named, autograph=False)

        self.generate = function(
            self._generate,
            prompt=texts, length=whole, temperature=number, top_k=whole, top_p=number, seed=tf.TensorSpec([], tf.int64),
        )  # fmt: skip
        self.serving_default = function(self._serving_default, prompt=texts)
        self.encode = function(self._encode, text=texts)
        self.logits = function(self._logits, ids=tf.TensorSpec([None, None], tf.int32))

    def _generate(self, prompt, length, temperature, top_k, top_p, seed):
        def one(prompt):
            ids = self.codec.encode(prompt)
            new = self.writer.write(ids, length=length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
            return self.codec.decode(new), new

        text, tokens = _each(one, prompt, (tf.TensorSpec([], tf.string), _ragged()))
        return {"text": text, "tokens": _padded(tokens)}

    def _serving_default(self, prompt):
        return {"text": self.generate(prompt, *DEFAULTS.values())["text"]}

    def _encode(self, text):
        return {"ids": _padded(_each(self.codec.encode, text, _ragged()))}

    def _logits(self, ids):
        n_ctx, n_vocab = self.writer.n_ctx, self.writer.n_vocab
        # A GPU would answer with zeros for what is not there.
        checks = [
            tf.debugging.assert_less_equal(tf.shape(ids)[1], n_ctx, f"ids has more than {n_ctx} columns"),
            tf.debugging.assert_less(ids, n_vocab, f"ids has a number that is not below {n_vocab}"),
        ]
        with tf.control_dependencies(checks):
            # What stands behind a text is hidden from it by causality.
            ids = tf.maximum(ids, 0)
        # Of no texts at all, nobody could say how long they are.
        none = tf.zeros([0, tf.shape(ids)[1], n_vocab])
        some = tf.TensorSpec([None, n_vocab], tf.float32)
        return {"logits": tf.cond(tf.shape(ids)[0] > 0, lambda: _each(self.writer.logits, ids, some), lambda: none)}


def _each(function, rows, result):
    return tf.map_fn(function, rows, fn_output_signature=result, parallel_iterations=AT_ONCE)


def _ragged():
    return tf.RaggedTensorSpec([None], tf.int32)


def _padded(rows):
    return rows.to_tensor(-1)
