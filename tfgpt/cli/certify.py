"""A parity certificate: two forms of a model are run on the same text and compared.

Printed are the largest difference of a logit, for how many of 200 greedy tokens both write the same, and the perplexity of
both. Each form is computed by its own library where that is installed (transformers, TensorFlow, Keras), and otherwise by
plain NumPy, apart from the network that trains. The exit code is 1 if a logit differs by more than --tolerance.

example:
  tfgpt certify models/mine --against models/124M
  tfgpt certify exported/my_text --against models/my_text --json
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict

from tfgpt.cli import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt certify`."""
    parser.add_argument("folder", metavar="DIR", help="one form of the model")
    parser.add_argument("--against", required=True, metavar="SOURCE", help="the other form")
    parser.add_argument("--file", metavar="FILE", help="the text (default: English that Python carries)")
    parser.add_argument("--length", type=at_least(1), default=200, metavar="N", help="greedy tokens (default 200)")
    parser.add_argument("--tolerance", type=_tolerance, default=1e-3, metavar="X", help="of a logit (default 0.001)")
    parser.add_argument("--n_head", type=int, metavar="N", help="heads, for checkpoints that do not say how many")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, not {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Compare, and print the certificate."""
    from tfgpt.certificate import certify
    from tfgpt.cli.prompts import text_of

    text = text_of(args.file) if args.file is not None else None
    found = certify(args.folder, args.against, text=text, length=args.length, n_head=args.n_head)
    good = found.within(args.tolerance)
    if args.json:
        print(json.dumps(asdict(found) | {"tolerance": args.tolerance, "equal": good}))
        return 0 if good else 1
    for note in found.notes:
        print(f"note: {note}")
    for line in found.lines():
        print(line)
    print(f"{'equal' if good else 'NOT equal'} within {args.tolerance:g}")
    return 0 if good else 1
