"""Write a model in the form of others.

DIR is a run's folder, a checkpoint, or any model that `tfgpt import` reads. OUT is a new folder. Forms:

  huggingface  transformers, and all that reads its folders; the tokenizer's files come along
  openai       OpenAI's and ConnorJL's code: a TensorFlow checkpoint under their names
  savedmodel   TensorFlow Serving: text in, text out, without our code
  keras        one .keras file of stock layers, for any Keras 3
  litert       phones and small boards: int8 weights in a .tflite file

example:
  tfgpt export models/my_text --to huggingface exported/my_text
"""

from __future__ import annotations

import argparse
import shlex

# Spelt out, so that --help needs none of the modules that write them.
FORMS = ("huggingface", "openai", "savedmodel", "keras", "litert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt export`."""
    parser.add_argument("folder", metavar="DIR", help="the model")
    parser.add_argument("--to", required=True, choices=FORMS, help="the form")
    parser.add_argument("output", metavar="OUT", help="the new folder; must not exist yet")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best evaluation, not the newest")
    parser.add_argument("--n_head", type=int, metavar="N", help="heads, for checkpoints that do not say how many")


def run(args: argparse.Namespace) -> int:
    """Export."""
    from tfgpt.cli import own_name
    from tfgpt.export import writing
    from tfgpt.training import importing, opening

    importing.require_new(args.output)
    source = opening.source(args.folder, best=args.best, n_head=args.n_head)
    for note in source.notes:
        print(f"note: {note}")
    writing.write(source, args.to, args.output)
    print(f"{args.output}: for {writing.FORMS[args.to][0]}")
    if args.to in ("huggingface", "openai", "savedmodel", "keras"):
        places = f"{shlex.quote(args.output)} --against {shlex.quote(args.folder)}"
        print(f"  {own_name()} certify {places}   (that both compute the same)")
    return 0
