"""What every tokenizer can do."""

from __future__ import annotations

import codecs
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tfgpt import files as storage
from tfgpt.errors import UserError

END_OF_TEXT = "<|endoftext|>"
Ids: TypeAlias = "Sequence[int] | npt.NDArray[np.integer]"
Array: TypeAlias = "npt.NDArray[np.uint32]"


class Tokenizer(ABC):
    """Turns text into ids below `n_vocab` and ids into text.

    kind     "bpe", "char" or "byte"
    n_vocab  how many ids there are, the end-of-text id included
    eot      the id that ends a document, or None; text never produces it, not even the text "<|endoftext|>"
    pieces   for each id, the bytes it stands for

    >>> from tfgpt import tokenizers
    >>> tokenizer = tokenizers.from_name("byte")
    >>> tokenizer.n_vocab, tokenizer.eot, tokenizer.decode(tokenizer.encode("café"))
    (257, 256, 'café')
    """

    kind: str
    n_vocab: int
    eot: int | None
    pieces: list[bytes]

    @abstractmethod
    def encode_array(self, text: str) -> Array:
        """Ids of `text` as uint32, made without Python integers in between; the array may be read-only."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[Array, list[int]]:
        """Ids of several texts, one after the other, and how many each has: one call for many short documents.

        >>> from tfgpt import tokenizers
        >>> ids, lengths = tokenizers.from_name("byte").encode_batch(["ab", "", "c"])
        >>> ids.tolist(), lengths
        ([97, 98, 99], [2, 0, 1])
        """
        arrays = [self.encode_array(text) for text in texts]
        return np.concatenate([np.zeros(0, np.uint32), *arrays]), [len(array) for array in arrays]

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """File names and contents that make this tokenizer anew; the same tokenizer always gives the same bytes."""

    @classmethod
    @abstractmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "") -> Tokenizer:
        """The tokenizer that `files()` describes; `where` names the folder in error messages."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Half a surrogate pair, which no UTF-8 file can hold, counts as U+FFFD."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def decode(self, ids: Ids) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Ids) -> bytes:
        """Bytes of `ids`, before they are read as UTF-8."""
        return b"".join(map(self.pieces.__getitem__, self._checked(ids)))

    def stream(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one.

        >>> from tfgpt import tokenizers
        >>> stream = tokenizers.from_name("byte").stream()
        >>> [stream.push(i) for i in "é!".encode()], stream.finish()
        (['', 'é', '!'], '')
        """
        return StreamDecoder(self)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over `files()`: two tokenizers with the same fingerprint give the same ids."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            # The length keeps two files from passing for one another's continuation.
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `files()` into `folder`; a new local folder appears only when it is whole, each file likewise.

        >>> tokenizer.save("my_tokenizer")  # doctest: +SKIP
        """
        if storage.is_remote(folder):
            for name, content in self.files().items():
                storage.write_bytes(storage.join(folder, name), content)
            return
        target = Path(folder)
        if target.exists():
            for name, content in self.files().items():
                storage.write_bytes(target / name, content)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        temporary.mkdir()
        try:
            for name, content in self.files().items():
                storage.write_bytes(temporary / name, content)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        storage.sync_folder(target.parent)

    def _checked(self, ids: Ids) -> list[int]:
        array = np.asarray(ids)
        if array.size == 0:
            return []
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UserError(f"ids must be one row of whole numbers, not {array.dtype} of shape {array.shape}")
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.n_vocab:
            # A list or array indexed by -1 would answer with its last element: a wrong word and no error.
            raise UserError(
                f"id {low if low < 0 else high} is not in this {self.kind} tokenizer, whose ids are 0 to {self.n_vocab - 1}",
                fix="decode with the tokenizer that made the ids: the one saved in the checkpoint or beside the data",
            )
        checked: list[int] = array.tolist()
        return checked

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes rebuild the tokenizer from its files: the compiled tables inside cannot travel.
        return (type(self).from_files, (self.files(),))


class StreamDecoder:
    """Decodes ids one at a time and gives out whole characters only; all pushes and `finish` together equal `decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that are complete now that `token` has come, often one word, sometimes none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What was still waiting for its last bytes: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, lone surrogates replaced by U+FFFD, as tiktoken does."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
