"""Between text and the ids that a model knows: its tokenizer, and what the two of them do not have in common."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

from tfgpt.errors import UserError
from tfgpt.generation.options import Options
from tfgpt.tokenizers.base import END_OF_TEXT, Tokenizer, well_formed


class Language:
    """The tokenizer of a model with `n_vocab` ids.

    size  ids below this can be drawn; a model may have more, which stand for nothing
    eot   the id that ends a document, or None
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        if tokenizer.n_vocab > n_vocab:
            raise UserError(
                f"this tokenizer has {tokenizer.n_vocab:,} ids, the model only {n_vocab:,}: they do not belong together",
                fix="name the tokenizer that the model was trained with: --tokenizer DIR",
            )
        self.tokenizer = tokenizer
        self.eot, self.size = tokenizer.eot, tokenizer.n_vocab
        if tokenizer.eot is None and n_vocab > tokenizer.n_vocab:
            # Training gives a tokenizer without an end-of-text (nanoGPT's meta.pkl) one behind its own ids.
            self.eot, self.size = tokenizer.n_vocab, tokenizer.n_vocab + 1

    def prompt(self, prompt: str | Sequence[int]) -> tuple[list[int], list[int]]:
        """What the model reads for a text (or for ids), and those of it that are the user's: from nothing, it begins a document."""
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(well_formed(prompt)) if prompt else []
        else:
            whole = isinstance(prompt, (Sequence, np.ndarray)) and not isinstance(prompt, (bytes, bytearray))
            if not whole or not all(isinstance(token, (int, np.integer)) for token in prompt):
                raise UserError(f"a prompt is a text, or a list of ids; found {prompt!r:.60}")
            ids = [int(token) for token in prompt]
            if wrong := [token for token in ids if not 0 <= token < self.size]:
                raise UserError(f"there is no id {wrong[0]} in this model", nearest=f"0 to {self.size - 1}")
        return ids or self.beginning, ids

    def check(self, options: Options) -> None:
        """UserError if `options` speak of ids that there are not, or leave none to draw."""
        for name, ids in (("logit_bias", options.logit_bias), ("banned", options.banned)):
            if any(not 0 <= token < self.size for token in ids):
                wrong = next(token for token in ids if not 0 <= token < self.size)
                raise UserError(f"{name}: there is no id {wrong}", nearest=f"0 to {self.size - 1}")
        if len(set(options.banned)) == self.size:
            raise UserError("all ids are banned; one at least has to be left")

    @property
    def beginning(self) -> list[int]:
        """What stands before a document: end-of-text, or a line break, or the first id, where there is none."""
        if self.eot is not None:
            return [self.eot]
        try:
            return self.tokenizer.encode("\n")[:1] or [0]
        except UserError:
            return [0]

    def bytes_of(self, token: int) -> bytes:
        """The bytes that an id stands for."""
        return self.tokenizer.pieces[token] if token < self.tokenizer.n_vocab else END_OF_TEXT.encode()

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", errors="replace")


class WholeCharacters:
    """Text of ids that come one by one: bytes wait until their character is complete."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that are complete now that `token` has come."""
        return self._decoder.decode(self._language.bytes_of(token))

    def finish(self) -> str:
        """U+FFFD for bytes that still waited for others, or nothing."""
        return self._decoder.decode(b"", final=True)
