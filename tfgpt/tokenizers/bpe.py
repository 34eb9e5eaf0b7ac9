"""Byte-level byte pair encoding as GPT-2 does it, with tiktoken as the engine.

Which characters are letters, numbers and spaces is for tiktoken's Unicode tables to say. tiktoken 0.14 and tokenizers 0.23
hold equal tables for all 1,112,064 characters, and a test keeps checking; Python's `regex` module may be newer and count
characters as letters that neither knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import tiktoken

from tfgpt.tokenizers.base import END_OF_TEXT, Array, Tokenizer, well_formed
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary, read_vocabulary, token_bytes

FILES = ("encoder.json", "vocab.bpe")

# GPT-2's rule for cutting text before merging. The forms that give nothing back (++) cut exactly where GPT-2's own
# pattern cuts, and a long run of one kind costs one step instead of one a character.
SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# The same rule without looking ahead, which lets the engine use a finite automaton instead of backtracking and doubles its
# speed. Looking ahead serves one purpose: of several spaces before a word the last one goes with the word. So that place
# is found beforehand and marked with CUT; END stands between texts, so that many of them take one call.
CUT, END = 0, 1
FAST_SPLIT = r"""[\x00\x01]|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}\x00\x01]+|\s+"""
# What each byte of UTF-8 is to that rule: 1 a space, 2 the end of a text, 0 anything else.
KIND_OF_BYTE = np.zeros(256, dtype=np.uint8)
KIND_OF_BYTE[[9, 10, 11, 12, 13, 32]] = 1
KIND_OF_BYTE[END] = 2
# The other characters that count as spaces take several bytes. They are rare; text with one goes the general way.
OTHER_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


class BpeTokenizer(Tokenizer):
    """GPT-2's byte pairs, from encoder.json and vocab.bpe.

    Any vocabulary of that kind will do, whatever the order of its ids. Tokens that no merge makes (`<|endoftext|>`, padding
    and the like) are decoded, but text never produces them.

    >>> from tfgpt import tokenizers
    >>> gpt2 = tokenizers.from_name("gpt2")  # doctest: +SKIP
    >>> gpt2.encode("Hello world")  # doctest: +SKIP
    [15496, 995]
    """

    kind = "bpe"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.n_vocab = len(vocabulary.ids)
        self.eot = vocabulary.ids.get(END_OF_TEXT)
        self.pieces = vocabulary.pieces()
        # tiktoken wants ids in the order of merging: bytes first, then merges by rank. The files may say otherwise.
        order = {symbol: i for i, symbol in enumerate(SYMBOL_OF_BYTE.values())}
        order |= {token: 256 + rank for token, rank in vocabulary.ranks().items()}
        ids = np.zeros(256 + len(vocabulary.merges), dtype=np.uint32)
        for token, internal in order.items():
            ids[internal] = vocabulary.ids[token]
        self._ids = None if np.array_equal(ids, np.arange(len(ids))) else ids
        self._internal = {token_bytes(token): internal for token, internal in order.items()}
        self._fast = self._engine(FAST_SPLIT)
        # GPT-2's internal order begins with the 256 bytes, not in the order of their values.
        self._cut, self._end = self._internal[bytes([CUT])], self._internal[bytes([END])]

    @cached_property
    def _general(self) -> tiktoken.Encoding:
        return self._engine(SPLIT)

    def _engine(self, pattern: str) -> tiktoken.Encoding:
        # The special token is never allowed below; without one, tiktoken tries an empty pattern at every byte.
        size = max(self._internal.values()) + 1
        return tiktoken.Encoding(
            "tfgpt", pat_str=pattern, mergeable_ranks=self._internal, special_tokens={END_OF_TEXT: size}
        )

    def encode_array(self, text: str) -> Array:
        """Ids of `text` as uint32."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> tuple[Array, list[int]]:
        """Ids of several texts, one after the other, and how many each has."""
        joined = chr(END).join(texts)
        if (
            joined.count(chr(END)) != len(texts) - 1
            or chr(CUT) in joined
            or not (joined.isascii() or OTHER_SPACES.search(joined) is None)
            or not (marked := _mark_cuts(joined))
        ):
            return super().encode_batch(texts) if len(texts) != 1 else self._one(texts[0])
        internal = self._fast.encode_to_numpy(marked, disallowed_special=())
        internal = internal[internal != self._cut]
        ends = np.flatnonzero(internal == self._end)
        lengths = np.diff(ends - np.arange(len(ends)), prepend=0, append=len(internal) - len(ends)).tolist()
        return self._outside(internal[internal != self._end]), lengths

    def _one(self, text: str) -> tuple[Array, list[int]]:
        """The general way: any text, by GPT-2's own rule."""
        try:
            array = self._general.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            array = self._general.encode_to_numpy(well_formed(text), disallowed_special=())
        return self._outside(array), [len(array)]

    def _outside(self, internal: Array) -> Array:
        return internal if self._ids is None else self._ids[internal]

    def files(self) -> dict[str, bytes]:
        """encoder.json and vocab.bpe; for GPT-2's own vocabulary, byte for byte OpenAI's files."""
        return dict(zip(FILES, (self.vocabulary.encoder_json(), self.vocabulary.vocab_bpe()), strict=True))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "") -> BpeTokenizer:
        """See `Tokenizer.from_files`; the two files may have any names, of which one ends in .json."""
        encoder_name, merges_name = sorted(files, key=lambda name: not name.endswith(".json"))
        places = {"encoder_where": f"{where}{encoder_name}", "merges_where": f"{where}{merges_name}"}
        return cls(read_vocabulary(files[encoder_name], files[merges_name], **places))


def _mark_cuts(text: str) -> str | None:
    """`text` with CUT before the last of several spaces that a word follows; None where it is not well-formed."""
    try:
        data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    except UnicodeEncodeError:
        return None
    kind = KIND_OF_BYTE[data]
    spaces = kind == 1
    places = np.flatnonzero(spaces[:-2] & spaces[1:-1] & (kind[2:] == 0)) + 1
    if not len(places):
        return text
    marked = np.full(len(data) + len(places), CUT, dtype=np.uint8)
    kept = np.ones(len(marked), dtype=bool)
    kept[places + np.arange(len(places))] = False
    marked[kept] = data
    return marked.tobytes().decode("utf-8")
