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
    from tfgpt.cli import own_name, quoted
    from tfgpt.export import writing
    from tfgpt.training import importing, opening

    importing.require_new(args.output)
    source = opening.source(args.folder, best=args.best, n_head=args.n_head)
    for note in source.notes:
        print(f"note: {note}")
    writing.write(source, args.to, args.output)
    pairs = source.tokenizer is None or "vocab.bpe" in source.tokenizer.files()
    if args.to in ("huggingface", "openai") and not pairs:
        print("note: this form has no place for the model's tokenizer, which is not made of byte pairs")
    print(f"{args.output} is there, for {writing.FORMS[args.to][0]}.")
    if args.to != "litert" and not args.best:
        print("Whether both compute the same:")
        print(f"  {own_name()} certify {quoted(args.output)} --against {quoted(args.folder)}")
    return 0
