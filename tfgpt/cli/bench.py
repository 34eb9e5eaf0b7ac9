"""Measure speed beside a peer, alternating in one run, and print ratios: absolute times do not travel between machines.
The last line is one JSON object.

example:
  tfgpt bench encode
  tfgpt bench encode --input my_texts --encoder_path encoder
  tfgpt bench train
  tfgpt bench train --shape S --precision bfloat16 --peer torch
  tfgpt bench generate --repeats 1
  tfgpt bench shakespeare --repeats 1
"""

from __future__ import annotations

import argparse

from tfgpt.cli import at_least
from tfgpt.errors import UserError

OF_ENCODE = {"input": None, "encoder_path": None, "mb": 64, "processes": None}
OF_TRAIN = {"shape": "124M", "precision": "float32", "steps": None, "peer": "torch.compile"}
OF_GENERATE = {"peers": "all", "batch": None, "rounds": 3}
OF_SHAKESPEARE = {"text": "data/tinyshakespeare.txt", "peers": "all", "steps": None}
OPTIONS = {"encode": OF_ENCODE, "train": OF_TRAIN, "generate": OF_GENERATE, "shakespeare": OF_SHAKESPEARE}
STEPS = {"124M": 5, "M": 20, "S": 200}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt bench`."""
    parser.add_argument("what", choices=list(OPTIONS))
    parser.add_argument(
        "--repeats", type=at_least(1), default=3, help="runs of each, alternating; the median counts (default 3)"
    )
    encode = parser.add_argument_group("encode: text to ids beside tiktoken")
    encode.add_argument("--input", metavar="DIR", help="folder of .txt files (default: English that Python carries)")
    encode.add_argument(
        "--encoder_path", metavar="DIR", help="GPT-2's encoder (default: ./encoder or the cache; else one is trained)"
    )
    encode.add_argument("--mb", type=at_least(1), help="size of the default text (default 64)")
    encode.add_argument("--processes", type=at_least(1), help="for all contestants (default: one a core)")
    train = parser.add_argument_group("train: steps of GPT-2 on the CPU beside PyTorch")
    train.add_argument(
        "--shape", choices=list(STEPS), help="124M: 1 x 1024 tokens (default); M, S: nanoGPT's small ones"
    )
    train.add_argument("--precision", choices=["float32", "bfloat16"], help="of both (default float32)")
    train.add_argument("--steps", type=at_least(1), help="timed steps a run (default 5; 20 for M, 200 for S)")
    train.add_argument("--peer", choices=["torch.compile", "torch", "none"], help="default torch.compile")
    generate = parser.add_argument_group(
        "generate: tokens of GPT-2 124M on the CPU beside transformers and CTranslate2"
    )
    generate.add_argument("--peers", choices=["all", "none"], help="default all")
    generate.add_argument("--batch", type=at_least(1), action="append", help="texts at a time (default: 1, then 8)")
    shakespeare = parser.add_argument_group(
        "shakespeare: time to a loss beside nanoGPT's recipe for a CPU (--peers, --steps as above)"
    )
    shakespeare.add_argument(
        "--text", metavar="FILE", help="default data/tinyshakespeare.txt, where tfgpt download puts it"
    )
    generate.add_argument("--rounds", type=at_least(1), help="timed rounds in each process (default 3)")


def run(args: argparse.Namespace) -> None:
    """Run the benchmark that was asked for."""
    own = OPTIONS[args.what]
    for name in {name for options in OPTIONS.values() for name in options} - set(own):
        if getattr(args, name) is not None:
            raise UserError(f"tfgpt bench {args.what} has no --{name}", where=f"--{name}", fix="leave it out")
    given = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in own.items()}
    if args.what == "encode":
        from tfgpt.benchmarks import encode

        encode.run(
            source=given["input"],
            encoder_path=given["encoder_path"],
            megabytes=given["mb"],
            processes=given["processes"],
            repeats=args.repeats,
        )
        return
    if args.what == "generate":
        from tfgpt.benchmarks import generate

        batches = given["batch"] or [1, 8]
        generate.run(peers=given["peers"], batches=batches, repeats=args.repeats, rounds=given["rounds"])
        return
    if args.what == "shakespeare":
        from tfgpt.benchmarks import shakespeare

        peer = given["peers"] == "all"
        shakespeare.run(text=given["text"], steps=given["steps"], repeats=args.repeats, peer=peer)
        return
    from tfgpt.benchmarks import train

    given["steps"] = STEPS[given["shape"]] if given["steps"] is None else given["steps"]
    train.run(**given, repeats=args.repeats)
