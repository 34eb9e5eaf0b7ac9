"""One id a character, with bytes for the characters that are not in the alphabet, if wanted."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tfgpt.errors import UserError
from tfgpt.tokenizers.base import END_OF_TEXT, Array, Tokenizer, well_formed

FILE = "char.json"
FORMAT = "tfgpt-char-1"
UNKNOWN = np.uint32(0xFFFFFFFF)
# Characters at a time: what is in hand stays in the processor's cache, which makes the whole ten times as fast.
BLOCK = 1 << 16


class CharTokenizer(Tokenizer):
    """Ids 0, 1, ... are the characters of `alphabet` in its order, then 256 byte ids if `fallback`, then the end of text.

    Without `fallback`, a character outside the alphabet is an error that names it and its position.

    >>> CharTokenizer("abc").encode("cab"), CharTokenizer("abc").eot
    ([2, 0, 1], 3)
    >>> CharTokenizer("abc", fallback=True).encode("aé")
    [0, 198, 172]
    """

    kind = "char"

    def __init__(self, alphabet: str, *, fallback: bool = False, with_eot: bool = True) -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet) or well_formed(alphabet) != alphabet:
            raise UserError("an alphabet needs one character or more, each once and none of them half a surrogate pair")
        self.alphabet, self.fallback = alphabet, fallback
        self.pieces = [c.encode("utf-8") for c in alphabet]
        if fallback:
            self.pieces += [bytes([b]) for b in range(256)]
        self.eot = len(self.pieces) if with_eot else None
        if with_eot:
            self.pieces.append(END_OF_TEXT.encode())
        self.n_vocab = len(self.pieces)
        codes = _codes(alphabet)
        # One entry a code point up to the largest known; the last entry stands for all that lie beyond.
        self._table = np.full(int(codes.max()) + 2, UNKNOWN, dtype=np.uint32)
        self._table[codes] = np.arange(len(alphabet), dtype=np.uint32)

    def encode_array(self, text: str) -> Array:
        """Ids of `text` by table look-up, a block of characters at a time."""
        try:
            blocks = [self._block(text, start) for start in range(0, len(text), BLOCK)]
        except UnicodeEncodeError:
            return self.encode_array(well_formed(text))
        return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.uint32)

    def _block(self, text: str, start: int) -> Array:
        codes = _codes(text[start : start + BLOCK])
        ids: Array = self._table.take(codes, mode="clip")
        if ids.max() != UNKNOWN:
            return ids
        unknown = ids == UNKNOWN
        if not self.fallback:
            raise self._unknown(text, start + int(unknown.argmax()))
        return self._with_bytes(codes, ids, unknown)

    def _with_bytes(self, codes: Array, ids: Array, unknown: npt.NDArray[np.bool_]) -> Array:
        """The ids with every unknown character spelled as the ids of its UTF-8 bytes."""
        kinds, kind_of = np.unique(codes[unknown], return_inverse=True)
        spelled = [chr(c).encode("utf-8") for c in kinds.tolist()]
        spelling = np.array([list(s.ljust(4, b"\0")) for s in spelled], dtype=np.uint32)[kind_of]  # [unknown, 4]
        widths = np.array([len(s) for s in spelled])[kind_of]
        width = np.ones(len(codes), dtype=np.int64)
        width[unknown] = widths
        starts = np.cumsum(width) - width
        out = np.empty(int(width.sum()), dtype=np.uint32)
        out[starts[~unknown]] = ids[~unknown]
        for k in range(4):
            has = widths > k
            out[starts[unknown][has] + k] = len(self.alphabet) + spelling[has, k]
        return out

    def _unknown(self, text: str, position: int) -> UserError:
        character = text[position]
        line = text.count("\n", 0, position) + 1
        name = unicodedata.name(character, "no name")
        return UserError(
            f"the character {character!r} (U+{ord(character):04X}, {name}) is not among the {len(self.alphabet)} "
            "of this tokenizer",
            where=f"character {position} of the text, line {line}",
            nearest='tokenizer "char+bytes" spells unknown characters as bytes',
            fix="encode the data anew with --tokenizer char+bytes, or leave that character out",
        )

    def files(self) -> dict[str, bytes]:
        """`char.json`, which lists the characters in the order of their ids."""
        content = {
            "format": FORMAT,
            "characters": self.alphabet,
            "byte_fallback": self.fallback,
            "end_of_text": self.eot is not None,
        }
        return {FILE: (json.dumps(content) + "\n").encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "") -> CharTokenizer:
        """See `Tokenizer.from_files`."""
        place = f"{where}{FILE}"
        try:
            content = json.loads(files[FILE])
        except (ValueError, RecursionError) as error:
            raise UserError(f"not JSON: {error}", where=place) from None
        wanted: dict[str, type] = {"format": str, "characters": str, "byte_fallback": bool, "end_of_text": bool}
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError("not a character tokenizer of this version", where=place, nearest=f'"format": "{FORMAT}"')
        for key, kind in wanted.items():
            if type(content.get(key)) is not kind:
                raise UserError(f'"{key}" must be a {kind.__name__}, not {content.get(key)!r:.40}', where=place)
        try:
            return cls(content["characters"], fallback=content["byte_fallback"], with_eot=content["end_of_text"])
        except UserError as error:
            raise UserError(error.what, where=f'{place}, "characters"') from None


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
