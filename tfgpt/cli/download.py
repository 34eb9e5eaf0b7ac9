"""Fetch released models, GPT-2's encoder and sample data.

Every file is checked, an interrupted download goes on where it stopped, and what is already there and right is not
fetched again. Behind a proxy, set HTTPS_PROXY. Without a network, carry the files over and name their folder:

  tfgpt download --list
  tfgpt download encoder shakespeare
  tfgpt download 124M --base_url https://mirror.example.org/gpt-2/models
  tfgpt download 117M --from_dir /media/stick --output my_models/117M

example:

  tfgpt download encoder
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tfgpt.errors import UserError

if TYPE_CHECKING:
    from tfgpt.weights.catalogue import Item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; --list shows the names")
    parser.add_argument("--list", action="store_true", help="show what can be fetched, how large it is, where it goes")
    parser.add_argument("--output", default="", metavar="DIR", help="put the files here (one NAME only)")
    parser.add_argument(
        "--base_url", default="", metavar="URL", help="fetch from this mirror, laid out as the source: URL/NAME/FILE"
    )
    parser.add_argument("--from_dir", default="", metavar="DIR", help="copy from this folder instead of the net")


def run(args: argparse.Namespace) -> int:
    from tfgpt.weights import catalogue

    if args.list:
        width = max(map(len, catalogue.CATALOGUE))
        for item in catalogue.CATALOGUE.values():
            print(f"{item.name:<{width}}  {_readable(item.planned):>8}  -> ./{item.folder:<13}  {item.summary}")
        return 0
    if not args.names:
        known = " ".join(catalogue.CATALOGUE)
        raise UserError("no NAME given", nearest=known, fix="tfgpt download encoder   (or: tfgpt download --list)")
    if args.output and len(args.names) > 1:
        raise UserError("--output takes one NAME, or their files would mix", fix="run the command once for each NAME")
    items = [catalogue.find(name) for name in args.names]  # a misspelt last name is found before the first gigabyte
    from tfgpt.weights.download import download

    for item in items:
        folder = download(item.name, args.output, base_url=args.base_url, from_dir=args.from_dir)
        print(f"{item.name} is in {folder}. Next:\n  {_next(item, folder)}")
    return 0


def _next(item: Item, folder: Path) -> str:
    from tfgpt.cli import own_name

    name, place, tfgpt = item.name, shlex.quote(str(folder)), own_name()
    if name == "encoder":
        return f"{tfgpt} encode my_text_folder --encoder_path {place} --output data/my_text"
    if name == "shakespeare":
        text = shlex.quote(str(folder / "tinyshakespeare.txt"))
        return f"{tfgpt} encode {text} --tokenizer char --output data/shakespeare_char"
    if (folder / "encoder.json").exists():
        return f'{tfgpt} predict {place} --text "Once upon a time" --top_k 40'
    # ConnorJL's lie without a tokenizer, and do not say how many heads they have; the preset does.
    settings = f"--set model_path={place} encoder_path=encoder"
    return (
        f"{tfgpt} download encoder\n"
        f'  {tfgpt} train --model {item.preset} {settings} --predict_text "Once upon a time" --top_k 40'
    )


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
