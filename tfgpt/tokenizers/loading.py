"""Finding a tokenizer by its name or by its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tfgpt import files as storage
from tfgpt.errors import UserError, nearest
from tfgpt.tokenizers import byte, char
from tfgpt.tokenizers.base import Tokenizer
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.byte import ByteTokenizer
from tfgpt.tokenizers.char import CharTokenizer
from tfgpt.tokenizers.meta_pickle import read_meta
from tfgpt.tokenizers.training import SMALLEST, train_bpe, train_char
from tfgpt.tokenizers.vocabulary import GPT2_SHA256

META = "meta.pkl"
# The files of each kind of tokenizer, in the order in which its reader takes them.
LAYOUTS = (
    ("encoder.json", "vocab.bpe"),
    ("gpt2-vocab.json", "gpt2-merges.txt"),
    ("vocab.json", "merges.txt"),
    (char.FILE,),
    (byte.FILE,),
    (META,),
)
NAMES = ("gpt2", "char", "char+bytes", "byte", "bpe:4096")
# Far above any vocabulary in use (GPT-2's is one megabyte), far below what would fill a memory.
LARGEST = 256 << 20

Texts = Iterable[str] | Callable[[], Iterable[str]]


def load(folder_or_file: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer whose files lie in a folder, or that one file (with its partner, if it has one) describes.

    Read are encoder.json + vocab.bpe, vocab.json + merges.txt, gpt2-vocab.json + gpt2-merges.txt, char.json, byte.json and
    nanoGPT's meta.pkl.

    >>> load("my_tokenizer").n_vocab  # doctest: +SKIP
    4096
    """
    path = os.fspath(folder_or_file)
    if storage.is_folder(path):
        return _load_folder(path)
    folder, name = os.path.split(path)
    if not storage.exists(path):
        raise UserError(
            f"there is no {path}", fix="tfgpt tokenizer train --output DIR TEXT... makes a tokenizer in a folder"
        )
    layout = next((names for names in LAYOUTS if name in names), None)
    if layout is None:
        raise UserError(
            f"{name} is not the file of a tokenizer",
            where=path,
            nearest=nearest(name, [n for names in LAYOUTS for n in names]),
            fix="give the folder, or one of " + ", ".join(names[0] for names in LAYOUTS),
        )
    return _read(folder, layout)


def from_name(
    name: str, *, encoder_path: str | os.PathLike[str] | None = None, texts: Texts | None = None
) -> Tokenizer:
    """The tokenizer called "gpt2", "byte", "char", "char+bytes" or "bpe:SIZE", or the one in the folder `name`.

    encoder_path  for "gpt2": the folder of its files, instead of ./encoder or the user's cache
    texts         for "char", "char+bytes" and "bpe:SIZE", which are made from text: strings, or a function that gives them

    >>> from_name("char", texts=["to be or not to be"]).n_vocab
    8
    """
    if name == "gpt2":
        return _gpt2(encoder_path)
    if name == "byte":
        return ByteTokenizer()
    if name in ("char", "char+bytes"):
        return train_char(_given(texts, name), bytes=name == "char+bytes")
    if name == "bpe" or name.startswith("bpe:"):
        size = name[4:]
        if not (size.isascii() and size.isdigit() and len(size) < 10):
            raise UserError(f'"{name}" must say how many ids, {SMALLEST} or more', nearest='"bpe:4096"')
        return train_bpe(_given(texts, name), int(size))
    if not storage.exists(name):
        raise UserError(
            f'there is no tokenizer "{name}", nor a folder of that name',
            nearest=nearest(name, NAMES),
            fix=f"use one of {', '.join(NAMES)}, or a folder that tfgpt tokenizer train made",
        )
    return load(name)


def _given(texts: Texts | None, name: str) -> Iterable[str]:
    if texts is None:
        raise UserError(
            f'the tokenizer "{name}" is made from text, and none was given',
            fix="make it first: tfgpt tokenizer train --output DIR TEXT..., then use DIR in place of the name",
        )
    return texts() if callable(texts) else texts


def _gpt2(encoder_path: str | os.PathLike[str] | None) -> Tokenizer:
    if encoder_path is not None:
        return load(encoder_path)
    places = [Path("encoder"), storage.cache_folder() / "encoder"]
    strangers = []
    for place in places:
        if not all((place / name).is_file() for name in GPT2_SHA256):
            continue
        contents = {name: _bytes(str(place / name)) for name in GPT2_SHA256}
        if all(hashlib.sha256(contents[name]).hexdigest() == digest for name, digest in GPT2_SHA256.items()):
            return BpeTokenizer.from_files(contents, where=f"{place}{os.sep}")
        strangers.append(str(place))
    if strangers:
        raise UserError(
            "these files are a vocabulary, but not GPT-2's (their sha256 differs)",
            where=", ".join(strangers),
            fix=f"tfgpt download encoder fetches GPT-2's; to use yours, name its folder: --encoder_path {strangers[0]}",
        )
    raise UserError(
        "GPT-2's encoder.json and vocab.bpe are not here",
        where="looked in " + " and ".join(str(p) for p in places),
        fix="tfgpt download encoder",
    )


def _load_folder(folder: str) -> Tokenizer:
    def has(name: str) -> bool:
        return storage.exists(storage.join(folder, name))

    whole = [names for names in LAYOUTS if all(map(has, names))]
    if not whole:
        for names in LAYOUTS:
            absent = [n for n in names if not has(n)]
            if len(absent) < len(names):
                raise UserError(
                    f"{', '.join(absent)} is missing beside {next(n for n in names if has(n))}",
                    where=folder,
                    fix="copy it there from where the other file came",
                )
        hint = " (a tokenizer.json alone is not read)" if has("tokenizer.json") else ""
        raise UserError(
            f"no tokenizer in this folder{hint}",
            where=folder,
            nearest="encoder.json + vocab.bpe, vocab.json + merges.txt, char.json, byte.json or meta.pkl",
            fix=f"tfgpt tokenizer train --output {folder} TEXT... makes one",
        )
    found = [_read(folder, names) for names in whole]
    if len({tokenizer.fingerprint for tokenizer in found}) > 1:
        # To pick one silently is how a model comes to read with another alphabet than it was trained with.
        raise UserError(
            f"different tokenizers in one folder: {' and '.join(names[0] for names in whole)}",
            where=folder,
            fix=f"name the file that you mean, such as {storage.join(folder, whole[0][0])}",
        )
    return found[0]


def _read(folder: str, names: tuple[str, ...]) -> Tokenizer:
    paths = [storage.join(folder, name) if folder else name for name in names]
    for path in paths:
        if not storage.exists(path):
            raise UserError(f"{path} is missing", where=folder or ".", fix="copy it there from where its partner came")
    contents = {name: _bytes(path) for name, path in zip(names, paths, strict=True)}
    where = paths[0][: len(paths[0]) - len(names[0])]
    if names == (META,):
        return read_meta(contents[META], where=paths[0])
    if names == (char.FILE,):
        return CharTokenizer.from_files(contents, where=where)
    if names == (byte.FILE,):
        return ByteTokenizer.from_files(contents, where=where)
    return BpeTokenizer.from_files(contents, where=where)


def _bytes(path: str) -> bytes:
    if storage.size(path) > LARGEST:
        raise UserError(f"{storage.size(path) / 1e6:.0f} MB is too large for a tokenizer's file", where=path)
    return storage.read_bytes(path)
