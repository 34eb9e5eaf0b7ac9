"""From a configuration to files of records: `text` is encoded on first use, `datasets` and ledgers are looked up.

What comes out is all that the input functions need: for each part of the mixture its train and eval files and its weight.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from tfgpt import files
from tfgpt.config import Config
from tfgpt.data import ledger, sources
from tfgpt.data.documents import Rules
from tfgpt.data.encode import encode
from tfgpt.data.job import Job
from tfgpt.data.ledger import Ledger
from tfgpt.errors import UserError

# The seed's own files, by their numbers: openwebtext-newspaper_{n}.tfrecords, openwebtext-newspaper-long_{n}.tfrecords.
OPENWEBTEXT_EVAL = (1, 2, 11, 12, 16, 34, 36, 58, 60, 61, 62, 67, 83)
OPENWEBTEXT_EMPTY = (32,)
OPENWEBTEXT_TRAIN = tuple(n for n in range(93) if n not in OPENWEBTEXT_EVAL + OPENWEBTEXT_EMPTY)
SEED_INPUTS = {
    "openwebtext": (("openwebtext-newspaper", 42, 1.0),),
    "openwebtext_long": (("openwebtext-newspaper-long", 2, 1.0),),
    "openwebtext_longbiased": (("openwebtext-newspaper", 42, 0.3), ("openwebtext-newspaper-long", 2, 0.7)),
}


@dataclass(frozen=True)
class Part:
    """One part of the mixture that a model is trained on."""

    train: tuple[str, ...]  # paths of TFRecord files
    eval: tuple[str, ...]
    weight: float = 1.0
    mode: str = "packed"
    stitch: int | None = None
    ledger: Ledger | None = None  # where the files come with one
    folder: str = ""


def prepare(config: Config) -> list[Part]:
    """The parts of the mixture that `config` asks for; encodes its `text` first if that was never done.

    >>> from tfgpt import config
    >>> prepare(config.load("quickstart"))   # doctest: +SKIP
    """
    if config.text:
        return [_from_ledger(encode_text(config))]
    if config.datasets:
        return [
            Part(_match(d.train, "train"), _match(d.eval, "eval"), d.weight, d.mode, d.stitch) for d in config.datasets
        ]
    if config.data_path and files.exists(files.join(config.data_path, ledger.NAME)):
        return [_from_ledger(config.data_path)]
    if config.input in SEED_INPUTS:
        return [_seed_part(config, *part) for part in SEED_INPUTS[config.input]]
    if ":" in config.input:
        return []  # a function of the user's own looks for its files itself
    raise UserError(
        "this configuration names no data",
        where=f'$.input is "{config.input}"',
        fix='add "text": "FOLDER" (your own text), "data_path" (what tfgpt encode made) or "datasets"',
    )


def encode_text(config: Config) -> str:
    """The folder of `text`, encoded: `data_path`, or one in the cache whose name follows from content and settings."""
    folder = text_folder(config)
    job = Job(
        config.text,
        folder,
        text_rules(config),
        tokenizer=config.tokenizer,
        encoder_path=config.encoder_path,
        drop_duplicates=config.drop_duplicates,
        by_content=True,
    )
    try:
        encode(job)
    except UserError as error:
        if not config.data_path or "--restart" not in error.fix:
            raise
        fix = f"delete {folder} to encode the text anew, or name another folder as data_path"
        raise type(error)(error.what, where=error.where, fix=fix) from None
    return folder


def text_folder(config: Config) -> str:
    """Where `text` is kept when it is encoded; its content is read for that, as the folder's name follows from it."""
    if config.data_path:
        return config.data_path
    settings = [text_rules(config).as_dict(), config.tokenizer, config.encoder_path, config.drop_duplicates]
    marks = json.dumps([settings, sources.listing(sources.by_content(sources.find(config.text).sources))])
    return str(files.cache_folder() / "data" / hashlib.sha256(marks.encode()).hexdigest()[:16])


def text_rules(config: Config) -> Rules:
    """How the configuration wants its `text` to become documents."""
    return Rules(
        minimum_size=config.minimum_size,
        fix_text=config.fix_text,
        eval_fraction=config.eval_fraction,
        key=config.text_key,
    )


def input_function(name: str) -> Callable[..., object]:
    """The user's own input function `f(params, eval=False)`, named "package.module:function" in the configuration.

    >>> input_function("json:dumps").__name__
    'dumps'
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script, unlike `python -m`, leaves the user's own folder out
    try:
        function = getattr(import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f'there is no module "{error.name}"',
            where=f'$.input is "{name}"',
            fix="run from the folder that holds it, or put that folder on PYTHONPATH",
        ) from None
    except UserError:
        raise
    except AttributeError:
        known = ", ".join(n for n in vars(import_module(module_name)) if not n.startswith("_"))
        raise UserError(
            f'"{module_name}" has no function "{function_name}"', where=f'$.input is "{name}"', nearest=known[:120]
        ) from None
    except Exception as error:
        raise UserError(
            f'the module "{module_name}" cannot be imported: {type(error).__name__}: {error}',
            where=f'$.input is "{name}"',
            fix=f"python -c 'import {module_name}' shows where",
        ) from error
    if not callable(function):
        raise UserError(f'"{name}" is not a function', where="$.input")
    return function  # type: ignore[no-any-return]


def _from_ledger(folder: str) -> Part:
    known = ledger.read(folder)
    return Part(tuple(known.paths(folder, "train")), tuple(known.paths(folder, "eval")), ledger=known, folder=folder)


def _seed_part(config: Config, name: str, stitch: int, weight: float) -> Part:
    if not config.data_path:
        raise UserError(f'"{config.input}" reads numbered files from a folder', fix='name it: "data_path": "FOLDER"')

    def paths(numbers: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(files.join(str(config.data_path), f"{name}_{n}.tfrecords") for n in numbers)

    part = Part(paths(OPENWEBTEXT_TRAIN), paths(OPENWEBTEXT_EVAL), weight, "random_sample", stitch)
    missing = [path for path in part.train + part.eval if not files.exists(path)]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(part.train + part.eval)} files of {config.input} are missing",
            where=missing[0],
            fix=f'make them with tfgpt encode, or name your own files with "datasets" instead of "input": "{config.input}"',
        )
    return part


def _match(patterns: list[str], split: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = files.expand(pattern) if any(sign in pattern for sign in "*?[") else [pattern]
        if not paths or not all(map(files.exists, paths)):
            raise UserError(
                f"no file matches {pattern}",
                where=f"$.datasets, {split}",
                fix="check the path; * matches within a folder, ** below it",
            )
        found.update(dict.fromkeys(paths))
    return tuple(found)
