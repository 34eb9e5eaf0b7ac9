"""Plain bytes: no vocabulary to learn, any text, any file."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from tfgpt.errors import UserError
from tfgpt.tokenizers.base import END_OF_TEXT, Array, Tokenizer, well_formed

FILE = "byte.json"
CONTENT = {"format": "tfgpt-byte-1"}


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes of the text's UTF-8; id 256 ends a document.

    >>> ByteTokenizer().encode("a\\n")
    [97, 10]
    """

    kind = "byte"
    n_vocab = 257
    eot: int | None = 256

    def __init__(self) -> None:
        self.pieces = [bytes([b]) for b in range(256)] + [END_OF_TEXT.encode()]

    def encode_array(self, text: str) -> Array:
        """The UTF-8 bytes of `text` as uint32."""
        return np.frombuffer(well_formed(text).encode("utf-8"), dtype=np.uint8).astype(np.uint32)

    def files(self) -> dict[str, bytes]:
        """One file that only says that this is the byte tokenizer."""
        return {FILE: (json.dumps(CONTENT) + "\n").encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "") -> ByteTokenizer:
        """See `Tokenizer.from_files`."""
        try:
            content = json.loads(files[FILE])
        except (ValueError, RecursionError) as error:
            raise UserError(f"not JSON: {error}", where=f"{where}{FILE}") from None
        if content != CONTENT:
            raise UserError("not a byte tokenizer of this version", where=f"{where}{FILE}", nearest=json.dumps(CONTENT))
        return cls()
