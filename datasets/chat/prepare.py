"""Chats to TFRecords (--output), to one text file in the chat format (--text), or both. Input are lines of
`1|AUDIENCE|MESSAGE <EOM>` (1 sent by me, 0 received) and exports as JSON lines of {"sender", "audience", "text"}.
The TFRecords are those of `tfgpt encode --format chat`.

example:
  python datasets/chat/prepare.py export.jsonl --me Ada --text data/chat.chat
  python datasets/chat/prepare.py export.jsonl --me Ada --output data/chat --tokenizer bpe:4096
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The script also runs from a clone in which nothing was installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tfgpt.cli import encode, guarded
from tfgpt.errors import UserError


def main() -> int:
    """Hand the flags to `tfgpt encode`, and write the text file."""
    description, mark, example = (__doc__ or "").partition("\nexample:")
    parser = argparse.ArgumentParser(
        description=description, epilog=(mark + example).strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    encode.add_arguments(parser)
    for action in parser._actions:
        # The flags are those of the verb; only what is written is another choice here.
        action.required = action.required and action.dest != "output"
    parser.add_argument("--text", metavar="FILE", help="write all conversations here, in the chat format (X.chat)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show TensorFlow's own messages as well")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(format="chat")
    args = parser.parse_args()
    return guarded(lambda: run(args), verbose=args.verbose, debug=args.debug)


def run(args: argparse.Namespace) -> None:
    """Write what was asked for."""
    if not (args.text or args.output):
        raise UserError("nothing to write", where="--text, --output", fix="add --text data/chat.chat")
    if args.text:
        from tfgpt.data import conversations

        survey = conversations.write_text(args.inputs, args.text, encode.rules_of(args))
        print("\n".join(conversations.summary(survey, args.text)))
    if args.output:
        encode.run(args)


if __name__ == "__main__":
    sys.exit(main())
