"""The whole way on text that needs no download: the English that Python itself carries becomes a folder of text, a trained
tokenizer of 4,096 ids and verified TFRecords. Each step is printed as the command that you would type.

example:
  tfgpt demo --output demo
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt demo`."""
    parser.add_argument(
        "--output", default="demo", metavar="DIR", help='folder for everything it makes (default "demo")'
    )


def run(args: argparse.Namespace) -> int:
    """Go through the steps; each is an ordinary command of the public command line."""
    from tfgpt.cli import own_name
    from tfgpt.data import english

    folder = Path(args.output)
    text, data = folder / "text", folder / "data"
    print(f"[1/4] English from Python's own documentation -> {text}")
    if not text.exists():
        staging = folder / ".text.tmp"
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed here
        english.write(staging)
        staging.rename(text)
    size = sum(path.stat().st_size for path in text.iterdir())
    print(f"      {len(list(text.iterdir())):,} files, {size / 1e6:.1f} MB")
    commands = [
        ["encode", str(text), "--tokenizer", "bpe:4096", "--output", str(data)],
        ["data", "check", str(data)],
        ["data", "show", str(data), "--samples", "2"],
    ]
    for number, command in enumerate(commands, 2):
        print(f"\n[{number}/4] {own_name()} {shlex.join(command)}")
        if code := _step(command):
            return code
    print(
        f"\nnext: put your own text in a folder and run\n  {own_name()} encode YOUR_FOLDER --tokenizer bpe:4096 --output {shlex.quote(str(folder / 'mine'))}"
    )
    return 0


def _step(command: list[str]) -> int:
    from tfgpt.cli import main

    return main(command)
