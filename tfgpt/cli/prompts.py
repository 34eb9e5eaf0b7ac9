"""Files of prompts: one JSON value a line in, one JSON object for each text out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tfgpt import files
from tfgpt.errors import Problems, UserError, nearest
from tfgpt.generation.options import LEGAL, Options
from tfgpt.tokenizers.base import well_formed

if TYPE_CHECKING:
    from tfgpt.generation.writing import Result
    from tfgpt.generator import Generator

# More mistakes than this in one file are one mistake made many times.
TOLD = 20


def text_of(path: str) -> str:
    """The text of a file, which has to be UTF-8 (a byte order mark is passed over)."""
    if not files.exists(path) or files.is_folder(path):
        raise UserError("there is no such file", where=path)
    data = files.read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8",
            where=path,
            fix="save the file as UTF-8 in your editor",
        ) from None


def read(path: str, defaults: Options) -> list[tuple[dict[str, Any], Options]]:
    """For each line of the file: what it says of itself (prompt and id), and its options over `defaults`."""
    found, problems = [], []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_line(line, defaults, where=f"{path}, line {number}"))
        except UserError as error:
            problems.append(error)
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems):,} mistakes"
        shown = f", the first {TOLD}" if len(problems) > TOLD else ""
        raise Problems(f"{count} in {path}{shown}; nothing was written", problems[:TOLD])
    return found


def _line(line: str, defaults: Options, *, where: str) -> tuple[dict[str, Any], Options]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where) from None
    values = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
        raise UserError('a line is a text, or an object with "prompt"', where=where)
    for name in values:
        if name not in LEGAL and name not in ("prompt", "id"):
            known = ["prompt", "id", *LEGAL]
            raise UserError(f'there is no option "{name}"', where=where, nearest=nearest(name, known))
    try:
        options = defaults.changed({name: values[name] for name in values if name in LEGAL})
    except UserError as error:
        raise UserError(str(error).replace("\n", "; "), where=where) from None
    return {name: values[name] for name in ("id", "prompt") if name in values}, options


def lines(generator: Generator, jobs: list[tuple[dict[str, Any], Options]]) -> Iterator[str]:
    """The answers as lines of JSON, in the order of the prompts and samples, each as soon as it and all before it are done."""
    streams = generator.open([(about["prompt"], options) for about, options in jobs])
    try:
        rest = iter(streams)
        for about, options in jobs:
            for _ in range(options.num_samples):
                # JSON's escapes can spell half a surrogate pair, which no UTF-8 file can hold.
                yield well_formed(json.dumps(about | record(next(rest).finished()), ensure_ascii=False))
    finally:
        for stream in streams:
            stream.close()


def record(result: Result) -> dict[str, Any]:
    """What a line says of a text."""
    found = {
        "sample": result.sample,
        "text": result.text,
        "tokens": result.tokens,
        "logprobs": None if result.logprobs is None else [round(number, 5) for number in result.logprobs],
        "finish": result.finish,
        "seed": result.seed,
    }
    return found | ({"stop": result.stop} if result.stop is not None else {})


def write(
    generator: Generator, jobs: list[tuple[dict[str, Any], Options]], output: str | None, say: Callable[[str], None]
) -> None:
    """Write all answers to `output`, whole or not at all, or say each line as soon as it is done."""
    if output is None:
        for line in lines(generator, jobs):
            say(line)
        return
    from tfgpt.progress import Progress

    total = sum(options.num_samples for _, options in jobs)
    with (
        files.atomic_writer(output, "w", encoding="utf-8") as stream,
        Progress("predict", total=total, unit=" texts") as progress,
    ):
        for line in lines(generator, jobs):
            stream.write(line + "\n")
            progress.update(1)
