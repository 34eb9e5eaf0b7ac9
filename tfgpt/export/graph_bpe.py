"""Tokenizers as TensorFlow graphs: a string to ids and back in core operations, for processes that have nothing else.

Ids are those of `tfgpt.tokenizers`, and thus tiktoken's, for every text. Bytes that are not UTF-8 count as U+FFFD, as many
as Python makes of them.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfgpt.errors import UserError
from tfgpt.export.graph_words import Words
from tfgpt.tokenizers import Tokenizer
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.char import CharTokenizer
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary

NEVER = np.iinfo(np.int64).max  # the rank of a pair that is no merge


class Codec(tf.Module):
    """What every tokenizer in a graph can do; this one is that of bytes.

    size       ids below this can be drawn; a model may have more, which stand for nothing
    eot        the id that ends a document, or -1
    beginning  what stands before a text that begins with nothing
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        super().__init__(name="codec")
        if tokenizer.n_vocab > n_vocab:
            raise UserError(
                f"this tokenizer has {tokenizer.n_vocab:,} ids, the model only {n_vocab:,}: they do not belong together",
                fix="put the tokenizer beside it that the model was trained with",
            )
        pieces, eot = list(tokenizer.pieces), tokenizer.eot
        if eot is None and n_vocab > len(pieces):
            # Training gives a tokenizer without an end-of-text (nanoGPT's meta.pkl) one behind its own ids.
            eot = len(pieces)
            pieces.append(b"")
        self.size, self.eot = len(pieces), -1 if eot is None else eot
        self.beginning = [eot] if eot is not None else _line_break(tokenizer)
        if eot is not None:
            pieces[eot] = b""
        # Tables are tensors, not numbers in a function: all signatures share them. Strings live on the CPU, and so do they.
        with tf.device("CPU"):
            self._pieces = tf.constant(pieces)

    def encode(self, text: tf.Tensor) -> tf.Tensor:
        """Ids [N] int32 of a text, a string scalar; never the end of the text."""
        return _bytes(_repaired(text))

    def decode(self, ids: tf.Tensor) -> tf.Tensor:
        """Text of ids [N]; the end of the text stands for nothing, and bytes that are not UTF-8 for U+FFFD."""
        return _repaired(tf.strings.reduce_join(tf.gather(self._pieces, ids)))


class CharCodec(Codec):
    """One id a character, or its bytes where it is not in the alphabet; without bytes such a text is an error."""

    def __init__(self, tokenizer: CharTokenizer, n_vocab: int) -> None:
        super().__init__(tokenizer, n_vocab)
        codes = np.array([ord(c) for c in tokenizer.alphabet], np.int32)
        self._count, self._fallback = len(codes), tokenizer.fallback
        order = np.argsort(codes)
        with tf.device("CPU"):
            self._codes, self._ids = tf.constant(codes[order]), tf.constant(order.astype(np.int32))

    def encode(self, text: tf.Tensor) -> tf.Tensor:
        """See `Codec.encode`."""
        text = _repaired(text)
        codes = tf.strings.unicode_decode(text, "UTF-8")
        place = tf.minimum(tf.searchsorted(self._codes, codes), self._count - 1)
        known, ids = tf.gather(self._codes, place) == codes, tf.gather(self._ids, place)
        if not self._fallback:
            strange = tf.boolean_mask(codes, ~known)
            message = "a character of this text is not in the model's alphabet; its code point, and all those like it:"
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [message, strange])]):
                return tf.identity(ids)
        data = _bytes(text)
        leads, of = _characters(data)
        spelled = tf.where(tf.gather(known, of), tf.gather(ids, of), self._count + data)
        return tf.boolean_mask(spelled, leads | ~tf.gather(known, of))


class BpeCodec(Codec):
    """GPT-2's byte pairs: in every word the pair of lowest rank is joined, leftmost first, until no pair is a merge."""

    def __init__(self, tokenizer: BpeTokenizer, n_vocab: int) -> None:
        super().__init__(tokenizer, n_vocab)
        vocabulary = tokenizer.vocabulary
        ids, ranks = vocabulary.ids, {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        self._factor = factor = len(ids)
        rows = [(ids[a] * factor + ids[b], rank * factor + ids[a + b]) for (a, b), rank in ranks.items()]
        table = np.array(sorted(rows), np.int64).reshape(-1, 2)
        # A pair that is never looked for, so that a vocabulary without merges needs no case of its own.
        table = np.concatenate([table, [[NEVER, NEVER]]])
        self._in_order = in_order(vocabulary)
        self.words = Words()
        with tf.device("CPU"):
            self._pairs, self._joined = tf.constant(table[:, 0]), tf.constant(table[:, 1])
            self._id_of_byte = tf.constant([ids[SYMBOL_OF_BYTE[byte]] for byte in range(256)], tf.int64)

    def encode(self, text: tf.Tensor) -> tf.Tensor:
        """See `Codec.encode`."""
        # Many small steps over small tables: nothing that an accelerator would be faster at.
        with tf.device("CPU"):
            text = _repaired(text)
            data = _bytes(text)
            _, character = _characters(data)
            word = tf.cumsum(tf.cast(self.words.starts(tf.strings.unicode_decode(text, "UTF-8")), tf.int32)) - 1
            state = tf.constant(True), tf.gather(self._id_of_byte, data), tf.gather(word, character)
            shapes = tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None])
            _, ids, _ = tf.while_loop(lambda more, *_: more, self._round, state, shapes)
            return tf.cast(ids, tf.int32)

    def _round(self, _, ids, word):
        """Join one pair in each word, everywhere in the word where that is the same as one after the other."""
        pair = ids[:-1] * self._factor + ids[1:]
        place = tf.searchsorted(self._pairs, pair)
        merge = (tf.gather(self._pairs, place) == pair) & (word[:-1] == word[1:])
        # Rank and joined id in one number: the lowest is that of the lowest rank.
        number = tf.where(merge, tf.gather(self._joined, place), NEVER)
        count = tf.reduce_max(tf.concat([word, [-1]], 0)) + 1
        chosen = merge & (number == tf.gather(tf.math.unsorted_segment_min(number, word[:-1], count), word[:-1]))
        chosen &= _every_other(chosen) if self._in_order else _leftmost(chosen, word[:-1], count)
        kept = tf.concat([tf.ones_like(ids[:1], tf.bool), ~chosen], 0)
        joined = tf.where(chosen, number % self._factor, ids[:-1])
        ids = tf.concat([joined, ids[-1:]], 0)
        return tf.reduce_any(chosen), tf.boolean_mask(ids, kept), tf.boolean_mask(word, kept)


def codec(tokenizer: Tokenizer, n_vocab: int) -> Codec:
    """The graph of a tokenizer, for a model with `n_vocab` ids.

    >>> from tfgpt import tokenizers
    >>> codec(tokenizers.from_name("byte"), 257).encode(tf.constant("hé")).numpy().tolist()
    [104, 195, 169]
    """
    if isinstance(tokenizer, BpeTokenizer):
        return BpeCodec(tokenizer, n_vocab)
    if isinstance(tokenizer, CharTokenizer):
        return CharCodec(tokenizer, n_vocab)
    if tokenizer.kind == "byte":
        return Codec(tokenizer, n_vocab)
    raise UserError(
        f'a tokenizer of the kind "{tokenizer.kind}" cannot be written as a TensorFlow graph',
        nearest="bpe, char or byte",
    )


def in_order(vocabulary: Vocabulary) -> bool:
    """Whether every merge ranks behind all that make its parts, as it does where merges were trained.

    Then what joining a pair brings forth ranks behind that pair. So the same pair stays the lowest until it is nowhere in the
    word, and all of it may be joined in one round.
    """
    latest = {left + right: rank for rank, (left, right) in enumerate(vocabulary.merges)}
    return all(latest.get(part, -1) < rank for rank, pair in enumerate(vocabulary.merges) for part in pair)


def _every_other(chosen: tf.Tensor) -> tf.Tensor:
    """The first, third, ... place of each run of chosen places: of "aaa" the first two letters can be joined, not all."""
    before = tf.concat([tf.zeros_like(chosen[:1]), chosen[:-1]], 0)
    first = chosen & ~before
    places = tf.concat([[0], tf.cast(tf.where(first)[:, 0], tf.int32)], 0)
    since = tf.gather(places, tf.cumsum(tf.cast(first, tf.int32)))
    return (tf.range(tf.size(chosen)) - since) % 2 == 0


def _leftmost(chosen: tf.Tensor, word: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The first of the chosen places of each word."""
    place = tf.where(chosen, tf.range(tf.size(chosen)), tf.size(chosen))
    return place == tf.gather(tf.math.unsorted_segment_min(place, word, count), word)


def _repaired(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _bytes(text: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reshape(tf.io.decode_raw(text, tf.uint8), [-1]), tf.int32)


def _characters(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which of the bytes of UTF-8 [N] begin a character, and the number of the character that each belongs to."""
    leads = tf.bitwise.bitwise_and(data, 0xC0) != 0x80
    return leads, tf.cumsum(tf.cast(leads, tf.int32)) - 1


def _line_break(tokenizer: Tokenizer) -> list[int]:
    try:
        return tokenizer.encode("\n")[:1] or [0]
    except UserError:
        return [0]
