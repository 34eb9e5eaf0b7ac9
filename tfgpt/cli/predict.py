"""Write text with a trained model.

DIR is a run's folder (the model_path of its configuration) or one checkpoint, here or in a bucket (gs://); nothing else is
needed. Without a prompt the model begins a document of its own. Rules of sampling, files of prompts and what happens to
texts that are longer than the context are in docs/generate.md.

example:
  tfgpt predict models/my_text --text "Once upon a time" --top_k 40 --length 100
  tfgpt predict models/my_text --prompts prompts.jsonl --output answers.jsonl
  tfgpt predict models/my_text --interactive
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt predict`."""
    from tfgpt.cli import sampling_flags

    parser.add_argument("folder", metavar="DIR", help="a run's folder, one checkpoint, or a released model")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best evaluation, not the newest")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="a tokenizer or its folder, in place of the checkpoint's own"
    )
    sampling_flags.add_sources(parser, short=True)
    sampling_flags.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write."""
    from tfgpt.cli import predicting, sampling_flags

    options = sampling_flags.options_of(args)
    return predicting.run(args, args.folder, options, blocks=False, best=args.best, tokenizer=args.tokenizer)
