"""Make a checkpoint of tfgpt of a model that others have stored.

SOURCE is OpenAI's, ConnorJL's or an Estimator's TensorFlow checkpoint, a Hugging Face folder (GPT-2, GPT-Neo), nanoGPT's
ckpt.pt or an HDF5 snapshot; which one it is, it says itself. DIR then generates, scores, trains and exports like any
checkpoint. Every tensor is checked; one that is missing, superfluous or misshapen is an error, and nothing is written.

example:
  tfgpt import models/124M models/mine
  tfgpt import out/ckpt.pt models/mine --tokenizer data/shakespeare_char
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt import`."""
    parser.add_argument("source", metavar="SOURCE", help="the model as it was stored")
    parser.add_argument("folder", metavar="DIR", help="the new checkpoint; must not exist yet")
    parser.add_argument("--tokenizer", metavar="NAME", help="a tokenizer or its folder, if none lies beside the model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a value of its configuration (repeatable)"
    )


def run(args: argparse.Namespace) -> int:
    """Import, and say what comes next."""
    from tfgpt import tokenizers
    from tfgpt.cli import own_name, quoted
    from tfgpt.config import overrides
    from tfgpt.errors import UserError
    from tfgpt.training import importing, opening
    from tfgpt.weights import recognise

    importing.require_new(args.folder)
    settings = {}
    for setting in args.set:
        path, value = overrides.parse(setting)
        if len(path) != 1:
            raise UserError("only whole values can be set here", where=f"--set {setting}")
        settings[str(path[0])] = value
    spoken = tokenizers.from_name(args.tokenizer) if args.tokenizer else None
    heads = settings.get("n_head")
    if opening.is_foreign(args.source):
        found = recognise.read(args.source, n_head=heads if isinstance(heads, int) else None)
    else:
        found = opening.source(args.source)
    print(f"{found.kind}: {shape_words(found.keys)}")
    for note in found.notes:
        print(f"note: {note}")
    if found.tokenizer is None and spoken is None:
        print("note: no tokenizer lies beside it; --tokenizer NAME takes one along")
    importing.write(found, args.folder, settings=settings, tokenizer=spoken)
    place = args.folder.rstrip("/")
    speaks = "" if found.tokenizer or spoken else " --tokenizer DIR"
    print(f"{place} is a checkpoint. Next:")
    print(f'  {own_name()} predict {quoted(place)} --text "Once upon a time"{speaks}')
    more = " tokenizer=DIR" if speaks else ""
    print(f"  {own_name()} train --model {quoted(place + '/config.json')} --set text=YOUR_FOLDER{more}")
    return 0


def shape_words(keys) -> str:
    """A model's shape in a line."""
    words = f"{keys['n_layer']} blocks, {keys['n_embd']} wide, {keys['n_head']} heads, {keys['n_ctx']:,} tokens, vocabulary {keys['n_vocab']:,}"
    more = [f"{name} {keys[name]}" for name in ("activation", "attention_window") if name in keys]
    return ", ".join([words, *more])
