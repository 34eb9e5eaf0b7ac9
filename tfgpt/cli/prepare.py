"""Make ready what a configuration names: check the file, encode its `text` on first use, find its records, and say what
there is. Training does this by itself; done beforehand, it can be looked at, or done on another machine.

example:
  tfgpt prepare --model my_text --set text=my_folder
"""

from __future__ import annotations

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags shared with main.py."""
    parser.add_argument(
        "--model", required=True, metavar="X.json", help="a JSON configuration, or the name of a preset"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value (repeatable)")


def run(args: argparse.Namespace) -> None:
    """Prepare and report."""
    from tfgpt import config
    from tfgpt.cli import own_name
    from tfgpt.data import prepare
    from tfgpt.data.show import summary

    settings = config.load(args.model, overrides=args.set)
    if ":" in settings.input:
        function = prepare.input_function(settings.input)
        print(f"input: {function.__module__}:{function.__name__}")
    for part in prepare.prepare(settings):
        if part.ledger:
            print(f"{part.folder}:")
            print("\n".join(summary(part.ledger)))
            print(f"next: {own_name()} data show {shlex.quote(part.folder)}")
        else:
            print(f"{len(part.train)} train and {len(part.eval)} eval files, weight {part.weight:g}, mode {part.mode}")
