"""Talk with a model: you type a line as one side, and the model answers as the other.

A model that was trained on chats (docs/chat.md) writes lines of the chat format; any other is talked to as "User" and
"Assistant". What was said is kept, and its oldest turns are left out when it no longer fits the model's context. Works from
a pipe as well: a line in, an answer on one line out.

example:
  tfgpt chat models/chat --audience mum --top_k 40
  printf 'On my way\\nAnything else?\\n' | tfgpt chat models/chat --audience mum
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt chat`."""
    from tfgpt.cli import sampling_flags

    parser.add_argument("folder", metavar="DIR", help="a run's folder, one checkpoint, or a released model")
    parser.add_argument("--best", action="store_true", help="the checkpoint with the best evaluation, not the newest")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="a tokenizer or its folder, in place of the checkpoint's own"
    )
    group = parser.add_argument_group("who talks")
    group.add_argument("--audience", metavar="NAME", help='whom the conversation is with, as the data has it ("user")')
    group.add_argument(
        "--as",
        dest="typed_as",
        choices=["me", "audience"],
        help="whose lines you type: mine, so that the model answers as the audience, or the audience's (default: me, "
        "but for a model that learnt from my lines alone)",
    )
    group.add_argument(
        "--template", choices=["f11", "plain"], help="the form of the conversation (default: what the model knows)"
    )
    sampling_flags.add_options(parser, texts=False)


def run(args: argparse.Namespace) -> int:
    """Talk until Ctrl-D."""
    from tfgpt.cli import predicting, sampling_flags
    from tfgpt.cli.chatting import Chat, check, form_for

    options = sampling_flags.options_of(args)
    check(args.template, args.audience, args.typed_as)
    generator = predicting.load(args.folder, dtype=args.dtype or "auto", best=args.best, tokenizer=args.tokenizer)
    form, name = form_for(generator, args.template, args.audience, args.typed_as)
    Chat(generator, form, options, name=name).run()
    return 0
