"""Measure speed beside a peer, alternating in one run, and print ratios: absolute times do not travel between machines.
The last line is one JSON object.

example:
  tfgpt bench encode
  tfgpt bench encode --input my_texts --encoder_path encoder
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt bench`."""
    parser.add_argument("what", choices=["encode"])
    parser.add_argument("--input", metavar="DIR", help="folder of .txt files (default: English that Python carries)")
    parser.add_argument(
        "--encoder_path", metavar="DIR", help="GPT-2's encoder (default: ./encoder or the cache; else one is trained)"
    )
    parser.add_argument("--mb", type=int, default=64, help="size of the default text (default 64)")
    parser.add_argument("--processes", type=int, help="for all contestants (default: one a core)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each, alternating; the median counts (default 3)"
    )


def run(args: argparse.Namespace) -> None:
    """Run the benchmark that was asked for."""
    from tfgpt.benchmarks import encode

    encode.run(
        source=args.input,
        encoder_path=args.encoder_path,
        megabytes=args.mb,
        processes=args.processes,
        repeats=args.repeats,
    )
