"""The flags of every command that writes text, and the options they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tfgpt.generation.options import DTYPES, LEGAL, Options, read

# Flags that take one number, and what they do.
NUMBERS = {
    "top_k": "draw among the K likeliest tokens and their ties",
    "top_p": "draw among the smallest set of likeliest tokens whose mass reaches P",
    "min_p": "draw among tokens with at least P times the probability of the likeliest",
    "repetition_penalty": "divide positive logits of tokens already seen by X, and multiply negative ones",
    "length": "most new tokens (without it: to the end of the context)",
    "num_samples": "texts from each prompt",
    "seed": "the same seed gives the same text (without it: a new one each time, which is told)",
}
SOURCES = ("predict_text", "predict_file", "prompts", "interactive")


def add_sources(parser: argparse.ArgumentParser, *, short: bool) -> None:
    """What is to be gone on from, one of four; `short` allows --text and --file as well."""
    group = parser.add_argument_group("what to go on from").add_mutually_exclusive_group()
    for name, metavar, words in (
        ("predict_text", "TEXT", "write on from this text"),
        ("predict_file", "FILE", "write on from the text in this file"),
    ):
        names = [f"--{name.removeprefix('predict_')}", f"--{name}"] if short else [f"--{name}"]
        group.add_argument(*names, dest=name, metavar=metavar, help=words)
    group.add_argument(
        "--prompts", metavar="FILE.jsonl", help='many prompts, a line each: "text" or {"prompt": ..., options}'
    )
    group.add_argument(
        "--interactive", action="store_true", default=None, help="write on from what you type, line by line"
    )


def add_options(parser: argparse.ArgumentParser, *, texts: bool = True) -> None:
    """How tokens are drawn, and where the text ends; without `texts`, nothing about several of them and their files."""
    group = parser.add_argument_group("how to write")
    heat = group.add_mutually_exclusive_group()
    heat.add_argument(
        "--temperature",
        type=number("temperature"),
        metavar="T",
        help="0: always the likeliest token; 1: as the model has it",
    )
    heat.add_argument("--greedy", action="store_true", default=None, help="always the likeliest token: temperature 0")
    for name, words in NUMBERS.items():
        if name == "num_samples" and not texts:
            continue
        short = "P" if name in ("top_p", "min_p") else "X" if name == "repetition_penalty" else "N"
        metavar = "K" if name == "top_k" else short
        group.add_argument(f"--{name}", type=number(name), metavar=metavar, help=words)
    group.add_argument("--stop", action="append", type=stop, metavar="TEXT", help="end before this text (repeatable)")
    group.add_argument("--ignore_eot", action="store_true", default=None, help="go on behind an end-of-text token")
    group.add_argument(
        "--dtype", choices=DTYPES, help="what weights are kept in (default auto: the fastest by measurement)"
    )
    if texts:
        group.add_argument(
            "--output", metavar="FILE", help="with --prompts: write there; else: append the text there too"
        )


def options_of(args: argparse.Namespace, **defaults: Any) -> Options:
    """The options that the flags make, over `defaults`."""
    given = {name: getattr(args, name) for name in LEGAL if getattr(args, name, None) is not None}
    if args.greedy:
        given["temperature"] = 0
    return Options.of(defaults | given)


def given(args: argparse.Namespace, *, sources: bool) -> list[str]:
    """The flags of this module that the user gave: those that name a source, or the others."""
    names = SOURCES if sources else ("temperature", "greedy", *NUMBERS, "stop", "ignore_eot", "dtype", "output")
    return [name for name in names if getattr(args, name, None) is not None]


def number(name: str) -> Callable[[str], int | float]:
    """An argparse type for the option `name`; what it refuses, it refuses with the legal range."""

    def parse(text: str) -> int | float:
        try:
            return read(name, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def stop(text: str) -> str:
    """An argparse type for a stop string."""
    if not LEGAL["stop"].test([text]):
        raise argparse.ArgumentTypeError("must be a text of 1 to 1,000 characters")
    return text
