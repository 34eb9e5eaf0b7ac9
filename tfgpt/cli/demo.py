"""The whole way on text that needs no download: the English that Python itself carries becomes a folder of text, a trained
tokenizer of 4,096 ids, verified TFRecords, and a small GPT that is trained, evaluated and sampled from. Each step is
printed as the command that you would type. Run it again and it goes on, or shows what is there.

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
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the model")


def run(args: argparse.Namespace) -> int:
    """Go through the steps; each is an ordinary command of the public command line."""
    from tfgpt.cli import main, own_name
    from tfgpt.data import english

    folder = Path(args.output)
    text, data, model = folder / "text", folder / "data", folder / "model"
    settings = [f"data_path={data}", "text=[]", f"model_path={model}", *args.set]
    configured = ["--model", "quickstart", *(word for setting in settings for word in ("--set", setting))]
    commands = [
        ["encode", str(text), "--tokenizer", "bpe:4096", "--output", str(data)],
        ["data", "check", str(data)],
        ["data", "show", str(data), "--samples", "1"],
        ["train", *configured],
    ]
    steps = len(commands) + 1
    print(f"[1/{steps}] English from Python's own documentation -> {text}")
    if not text.exists():
        staging = folder / ".text.tmp"
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed here
        english.write(staging)
        staging.rename(text)
    size = sum(path.stat().st_size for path in text.iterdir())
    print(f"      {len(list(text.iterdir())):,} files, {size / 1e6:.1f} MB")
    for number, command in enumerate(commands, 2):
        print(f"\n[{number}/{steps}] {own_name()} {shlex.join(command)}", flush=True)
        if code := main(command):
            return code
    print("\nnext: put your own text in a folder and run")
    print(
        f"  {own_name()} train --model my_text --set text=YOUR_FOLDER --set model_path={shlex.quote(str(folder / 'mine'))}"
    )
    return 0
