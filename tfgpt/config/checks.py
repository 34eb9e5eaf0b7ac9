"""Checks that need more than one key, or a look at the disk; each names the keys it is about."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfgpt.config.json_reader import Path as JsonPath
from tfgpt.config.model import TOKENIZER_SIZES
from tfgpt.errors import nearest
from tfgpt.files import is_remote

if TYPE_CHECKING:
    from tfgpt.config.schema import Config

KNOWN_TOKENIZERS = ("gpt2", "char", "char+bytes", "byte")


@dataclass(frozen=True)
class Mistake:
    """Something wrong with `paths` together; the first path that the user wrote is where it is reported."""

    paths: tuple[JsonPath, ...]
    what: str
    nearest: str = ""
    fix: str = ""


def _about(*keys: str) -> tuple[JsonPath, ...]:
    return tuple((key,) for key in keys)


def cross_checks(cfg: Config) -> Iterator[Mistake]:
    """What does not fit together in `cfg`, without touching the disk."""
    yield from _shape(cfg)
    yield from _attention(cfg)
    yield from _steps(cfg)
    yield from _sources(cfg)


def _shape(cfg: Config) -> Iterator[Mistake]:
    if cfg.n_embd % cfg.n_head:
        heads = [n for n in range(1, min(cfg.n_embd, 4096) + 1) if cfg.n_embd % n == 0]
        best = min(heads, key=lambda n: (abs(n - cfg.n_head), n))
        what = f"{cfg.n_head} heads do not divide a width of {cfg.n_embd} (n_embd)"
        yield Mistake(_about("n_head", "n_embd"), what, nearest=f'"n_head": {best}', fix=f"--set n_head={best}")
    size = TOKENIZER_SIZES.get(cfg.tokenizer, 0) if not cfg.encoder_path or cfg.tokenizer == "byte" else 0
    size = int(cfg.tokenizer[4:]) if cfg.tokenizer.startswith("bpe:") else size
    if cfg.n_vocab is not None and cfg.n_vocab < size:
        what = f'n_vocab is {cfg.n_vocab}, but the tokenizer "{cfg.tokenizer}" makes {size} different ids'
        yield Mistake(_about("n_vocab", "tokenizer"), what, nearest=f'"n_vocab": {size}', fix=f"--set n_vocab={size}")
    if isinstance(cfg.recompute, int) and cfg.recompute > cfg.n_layer:
        what = f"recompute is {cfg.recompute} blocks at a time, but there are {cfg.n_layer} (n_layer)"
        yield Mistake(_about("recompute", "n_layer"), what, nearest=str(cfg.n_layer), fix='--set recompute="block"')


def _attention(cfg: Config) -> Iterator[Mistake]:
    kinds = cfg.attention_types
    if kinds is not None:
        covered = sum(len(names) * times for names, times in kinds)
        if covered != cfg.n_layer:
            what = f"attention_types covers {covered} blocks, but n_layer is {cfg.n_layer}"
            fix = "change the repeat counts, or remove attention_types"
            yield Mistake(_about("attention_types", "n_layer"), what, nearest=f'"n_layer": {covered}', fix=fix)
        if cfg.local:
            what = "local and attention_types both say where attention is local"
            yield Mistake(_about("local", "attention_types"), what, nearest='"local": false', fix="--set local=false")
    size = cfg.fixed_attn_block_size
    if (cfg.local or any("local" in names for names, _ in kinds or [])) and cfg.n_ctx % size:
        best = max(n for n in range(1, min(size, cfg.n_ctx) + 1) if cfg.n_ctx % n == 0)
        what = f"fixed_attn_block_size {size} does not divide n_ctx {cfg.n_ctx}"
        fix = f"--set fixed_attn_block_size={best}"
        yield Mistake(_about("fixed_attn_block_size", "n_ctx"), what, nearest=str(best), fix=fix)


def _steps(cfg: Config) -> Iterator[Mistake]:
    if cfg.warmup_steps > cfg.max_steps:
        best = cfg.max_steps // 10
        what = f"warmup_steps {cfg.warmup_steps} is more than max_steps {cfg.max_steps}: lr would never be reached"
        yield Mistake(_about("warmup_steps", "max_steps"), what, nearest=str(best), fix=f"--set warmup_steps={best}")
    if cfg.min_lr > cfg.lr:
        what = f"min_lr {cfg.min_lr:g} is more than lr {cfg.lr:g}"
        yield Mistake(_about("min_lr", "lr"), what, nearest=f"{cfg.lr / 10:g}", fix=f"--set min_lr={cfg.lr / 10:g}")
    if cfg.train_batch_size % cfg.accumulate:
        best = next(n for n in range(min(cfg.accumulate, cfg.train_batch_size), 0, -1) if cfg.train_batch_size % n == 0)
        what = f"a batch of {cfg.train_batch_size} (train_batch_size) cannot be worked in {cfg.accumulate} equal parts"
        yield Mistake(_about("accumulate", "train_batch_size"), what, nearest=str(best), fix=f"--set accumulate={best}")


def _sources(cfg: Config) -> Iterator[Mistake]:
    if cfg.text and cfg.datasets:
        what = "text and datasets are both given; only one of them can be the training data"
        yield Mistake(_about("text", "datasets"), what, fix="--set text=[]   or   --set datasets=[]")
    elif (cfg.text or cfg.datasets) and cfg.input.startswith("openwebtext"):
        own = "text" if cfg.text else "datasets"
        what = f'input "{cfg.input}" reads its own numbered files, so {own} would not be used'
        yield Mistake(_about("input", own), what, nearest='"tfrecords"', fix="--set input=tfrecords")
    if cfg.loss_on != "all" and ":" in cfg.input:
        what = f'loss_on "{cfg.loss_on}" needs the text of whole conversations; an input function makes its own labels'
        fix = "--set loss_on=all, and labels of -1 where nothing is to be learnt"
        yield Mistake(_about("loss_on", "input"), what, nearest='"all"', fix=fix)
    train = {pattern: i for i, part in enumerate(cfg.datasets) for pattern in part.train}
    for i, part in enumerate(cfg.datasets):
        for pattern in part.eval:
            if pattern in train:
                what = f'"{pattern}" is both training data (datasets[{train[pattern]}]) and evaluation data'
                yield Mistake((("datasets", i, "eval"),), what, fix="give other files to eval, or none")


def file_checks(cfg: Config) -> Iterator[Mistake]:
    """What training would look for on this disk and not find; gs:// paths are left alone."""
    used = bool(cfg.text or cfg.datasets or ":" in cfg.input)
    if not used and cfg.data_path is None:
        yield Mistake(
            _about("data_path", "text", "datasets"),
            "there is no training data: no text, datasets or data_path",
            fix="--set text=FOLDER",
        )
    if not used and cfg.data_path is not None:
        hint = "check the path, or train on your own text: --set text=FOLDER --set input=tfrecords"
        yield from _exists(("data_path",), [cfg.data_path], fix=hint)
    for path in cfg.text:
        hint = "tfgpt download shakespeare, or --set text=FOLDER" if "shakespeare" in path else "--set text=FOLDER"
        yield from _exists(("text",), [path], fix=hint)
    if cfg.tokenizer == "gpt2" and cfg.encoder_path is not None:
        yield from _exists(("encoder_path",), [cfg.encoder_path], fix="tfgpt download encoder")
    if cfg.tokenizer not in KNOWN_TOKENIZERS and not cfg.tokenizer.startswith("bpe:"):
        yield from _exists(("tokenizer",), [cfg.tokenizer], fix=f"use one of {', '.join(KNOWN_TOKENIZERS)}, bpe:4096")
    if cfg.init_from is not None:
        yield from _exists(("init_from",), [cfg.init_from], fix="name a folder of weights, or remove init_from")
    yield from _mixture(cfg)


def _exists(path: JsonPath, patterns: list[str], *, fix: str) -> Iterator[Mistake]:
    for pattern in patterns:
        if not is_remote(pattern) and not _anything(pattern):
            yield Mistake((path,), f'{path[-1]}: nothing is at "{pattern}"', nearest=_neighbour(pattern), fix=fix)


def _mixture(cfg: Config) -> Iterator[Mistake]:
    """Files that are missing, and files that one part trains on and the same or another part evaluates on."""
    train: set[str] = set()
    named = {pattern for part in cfg.datasets for pattern in part.train}
    for i, part in enumerate(cfg.datasets):
        yield from _exists(
            ("datasets", i, "train"), part.train, fix="check the glob: relative paths start where you run tfgpt"
        )
        yield from _exists(("datasets", i, "eval"), part.eval, fix="check the glob, or leave eval out")
        train.update(os.path.realpath(file) for pattern in part.train for file in matches(pattern))
    for i, part in enumerate(cfg.datasets):
        # Patterns that are word for word in both lists are reported without looking at the disk.
        others = [pattern for pattern in part.eval if pattern not in named]
        both = [file for pattern in others for file in matches(pattern) if os.path.realpath(file) in train]
        if both:
            shown = ", ".join(both[:3]) + (f" and {len(both) - 3} more" if len(both) > 3 else "")
            what = f"{len(both)} file(s) would be both trained and evaluated on: {shown}"
            yield Mistake((("datasets", i, "eval"),), what, fix="make the train and eval globs match different files")


def _anything(pattern: str) -> bool:
    return os.path.exists(pattern) or next(glob.iglob(pattern, recursive=True), None) is not None


def matches(pattern: str) -> list[str]:
    """Local files that a path or glob stands for, sorted; a path that exists is never read as a pattern."""
    if is_remote(pattern):
        return []
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def _neighbour(pattern: str) -> str:
    """A thing of a like name in the same folder, for a slip of the pen."""
    folder = Path(pattern).parent
    try:
        names = sorted(entry.name for entry in os.scandir(folder))[:10_000]
    except OSError:
        return ""
    found = nearest(Path(pattern).name, names)
    return f'"{folder / found[1:-1]}"' if found else ""
