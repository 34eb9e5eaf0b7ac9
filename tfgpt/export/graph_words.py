"""Cutting text into words as GPT-2 does, in TensorFlow's own operations: a graph needs neither tfgpt nor a regex engine.

GPT-2's rule looks ahead, which the engine behind tf.strings cannot. But where a word begins hangs on no more than the kinds of
the characters around, so that all places of a text are judged at once, and nothing walks along it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tiktoken

OTHER, LETTER, NUMBER, SPACE = range(4)
KINDS = ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s"))
CODES = 0x110000
BLANK, QUOTE = ord(" "), ord("'")
SHORT = "stmd"  # 's 't 'm 'd
LONG = ("re", "ve", "ll")


class Words(tf.Module):
    """GPT-2's rule of cutting: 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

    >>> Words().starts(tf.constant([ord(c) for c in "I'll go"])).numpy().astype(int).tolist()
    [1, 1, 0, 0, 1, 0, 0]
    """

    def __init__(self) -> None:
        super().__init__(name="words")
        firsts, kinds = runs()
        # Tables are tensors, not numbers in a function: all signatures share them.
        with tf.device("CPU"):
            self._firsts, self._kinds = tf.constant(firsts), tf.constant(kinds)

    def starts(self, codes: tf.Tensor) -> tf.Tensor:
        """Whether a word begins at each of the code points [C]; every character belongs to a word."""
        kind = tf.gather(self._kinds, tf.searchsorted(self._firsts, codes, side="right") - 1)
        before, blank_before = _moved(kind, 1, fill=-1), _moved(codes, 1, fill=0) == BLANK
        behind, second = _moved(codes, -1, fill=0), _moved(codes, -2, fill=0)
        # A blank goes with the word behind it; any other white space stays out of it.
        first = (kind != before) & ~blank_before
        # The last of several white spaces leaves the others, unless the text ends with it.
        begins = first | (kind == SPACE) & (_moved(kind, -1, fill=SPACE) != SPACE)
        quote = first & (codes == QUOTE)
        short = quote & _any(behind == ord(c) for c in SHORT)
        long = quote & _any((behind == ord(pair[0])) & (second == ord(pair[1])) for pair in LONG)
        begins &= ~_moved(short | long, 1, fill=False)  # the letters of a contraction are part of it
        return begins | _moved(short, 2, fill=False) | _moved(long, 3, fill=False)


@cache
def runs() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The code points at which another kind begins, and that kind: the kinds of all characters, in some 1,500 numbers.

    They are asked of tiktoken, which cuts the text that models are trained on; other Unicode tables may be newer.
    """
    kinds = np.full(CODES, OTHER, np.int32)
    whole = "".join(chr(code) for code in range(CODES) if not 0xD800 <= code < 0xE000)
    for kind, pattern in KINDS:
        # What a pattern does not match is left out of the answer.
        ranks = {bytes([byte]): byte for byte in range(256)}
        engine = tiktoken.Encoding(pattern, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        found = bytes(engine.encode_ordinary(whole)).decode("utf-8")
        kinds[np.frombuffer(found.encode("utf-32-le"), "<u4")] = kind
    firsts = np.flatnonzero(np.diff(kinds, prepend=-1)).astype(np.int32)
    return firsts, kinds[firsts]


def _moved(values: tf.Tensor, by: int, *, fill: int | bool) -> tf.Tensor:
    """`values` [C] with each of them `by` places later (or earlier), and `fill` where nothing comes to stand."""
    gap = tf.fill([abs(by)], tf.cast(fill, values.dtype))
    if by > 0:
        return tf.concat([gap, values], 0)[: tf.size(values)]
    return tf.concat([values, gap], 0)[-by:]


def _any(conditions) -> tf.Tensor:
    return tf.reduce_any(tf.stack(list(conditions)), 0)
