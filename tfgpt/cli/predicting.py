"""What `tfgpt predict` and `python main.py --predict_text` have in common: from flags to text on the screen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfgpt import files
from tfgpt.cli import prompts
from tfgpt.errors import UserError
from tfgpt.generation.options import SLOTS, Options
from tfgpt.tokenizers.base import well_formed

if TYPE_CHECKING:
    from tfgpt.config import Config
    from tfgpt.generator import Generator


def run(
    args: argparse.Namespace,
    folder: str,
    options: Options,
    *,
    blocks: bool,
    append_to: str | None = None,
    best: bool = False,
    tokenizer: str | None = None,
    like: Config | None = None,
) -> int:
    """Write what the flags ask for, with the model in `folder`.

    `like` is a configuration that knows what a released model does not say of itself. `blocks` draws the seed's lines around each text even if there is only one; `append_to` gets them as well.
    """
    jobs = None
    if args.interactive and (args.output or args.num_samples):
        unused = "output" if args.output else "num_samples"
        raise UserError(f"--{unused} has no meaning with --interactive", fix="leave one of them out")
    if args.prompts is not None:
        options = options.changed({"logprobs": True})
        jobs = prompts.read(args.prompts, options)
        total = sum(one.num_samples for _, one in jobs)
    else:
        total = 1 if args.interactive else options.num_samples
        prompt = prompts.text_of(args.predict_file) if args.predict_file is not None else args.predict_text or ""
        prompt = well_formed(prompt)  # what the shell could not read as UTF-8 can be printed and written
    keep = []
    if jobs is None and not args.interactive:
        keep = [_keeper(path) for path in dict.fromkeys((append_to, args.output)) if path]
    slots = min(max(total, 1), SLOTS)
    generator = load(folder, dtype=args.dtype or "auto", slots=slots, best=best, tokenizer=tokenizer, like=like)
    if jobs is not None:
        prompts.write(generator, jobs, args.output, lambda line: print(line, flush=True))
    elif args.interactive:
        from tfgpt.cli.dialogue import Dialogue

        Dialogue(generator, options).run()
    else:
        write(generator, prompt, options, blocks=blocks or total > 1, keep=keep)
    return 0


def write(
    generator: Generator, prompt: str, options: Options, *, blocks: bool, keep: Sequence[Callable[[str], None]]
) -> None:
    """Print all samples, the first one while it is written; each of `keep` gets them whole."""
    streams = generator.open([(prompt, options)])
    try:
        for number, stream in enumerate(streams):
            above, below = heading(number), "\n" + "=" * 80 + "\n"
            print((above if blocks else "") + prompt, end="", flush=True)
            for piece in stream:
                print(piece, end="", flush=True)
            print(below if blocks else "\n", end="", flush=True)
            result = stream.finished()
            if number == 0 and options.seed is None:
                # Another type rounds otherwise, and "auto" may choose another one next time.
                again = f"--seed {result.seed} --dtype {generator.engine.dtype}"
                print(f"note: {again} writes the same again", file=sys.stderr, flush=True)
            for append in keep:
                append(above + prompt + result.text + below)
    finally:
        for stream in streams:
            stream.close()


def heading(number: int) -> str:
    """The line above a sample, as ConnorJL/GPT2 draws it.

    >>> heading(0)[36:54]
    '==== SAMPLE 0 ===='
    """
    return "=" * 40 + f" SAMPLE {number} " + "=" * 40 + "\n"


def load(folder: str, **how: Any) -> Generator:
    from tfgpt.generator import Generator
    from tfgpt.machine import one_heap

    one_heap(for_all=False)
    generator = Generator.load(folder, **how)
    print(f"tfgpt: {generator.about}", file=sys.stderr, flush=True)
    return generator


def _keeper(path: str) -> Callable[[str], None]:
    """What appends a text to the file `path`; that it can be written is found out before anything else is done."""
    if files.is_remote(path):

        def rewrite(text: str) -> None:
            before = files.read_bytes(path) if files.exists(path) else b""
            files.write_bytes(path, before + text.encode())

        return rewrite
    files.make_folder(Path(path).absolute().parent)
    open(path, "ab").close()

    def append(text: str) -> None:
        # One write of the whole: two commands that append to one file do not mix their texts.
        with open(path, "ab", buffering=0) as stream:
            stream.write(text.encode())

    return append
