"""Measure speed beside peers, alternating in one run, and print ratios: absolute times do not travel between machines.
The last line is one JSON object; --save keeps it, `report` draws what was kept, `growth` says how cost grows with size.

example:
  tfgpt bench train --shape S --peer torch --precision bfloat16
  tfgpt bench train --shape all --precision all --peer all --save
  tfgpt bench generate --repeats 1
  tfgpt bench encode --input my_texts --encoder_path encoder
  tfgpt bench input
  tfgpt bench serve --clients 16 --prompt_tokens 32
  tfgpt bench all --save
  tfgpt bench report --output history.png
  tfgpt bench growth --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tfgpt.cli import at_least

SHAPES = ["S", "M", "L", "124M", "all"]
PRECISIONS = ["float32", "bfloat16", "all"]
PEERS = ["torch.compile", "torch", "keras-hub", "all", "none"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt bench`."""
    parser.set_defaults(save=None)
    actions = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, (words, flags, _) in ACTIONS.items():
        flags(actions.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".", allow_abbrev=False))


def run(args: argparse.Namespace) -> int | None:
    """Run the benchmark that was asked for; what it printed last is kept with --save."""
    from tfgpt.benchmarks import history

    action = ACTIONS[args.what][2]
    if args.save is None or args.what == "all":  # which keeps each of its parts as it comes
        return action(args)
    path = history.place(args.save)
    history.check(path)
    with history.listening() as said:
        code = action(args)
    history.keep(path, said.found(), asked=_asked(args))
    return code


def _asked(args: argparse.Namespace) -> dict[str, object]:
    """The flags, so that the same can be measured again."""
    return {key: value for key, value in vars(args).items() if key not in ("what", "save", "verbose", "debug")}


def _measured(parser: argparse.ArgumentParser, repeats: int = 3) -> None:
    parser.add_argument(
        "--repeats",
        type=at_least(1),
        default=repeats,
        metavar="N",
        help=f"runs of each, alternating; the median counts (default {repeats})",
    )
    _kept(parser)


def _kept(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save",
        nargs="?",
        const="",
        default=None,
        metavar="FILE",
        help="append the result, with date, machine, versions and commit, to a history of JSON lines (default: "
        "benchmarks/history.jsonl of the repository you are in, if it has that folder; else one in the cache)",
    )


def _peaks_flags(parser: argparse.ArgumentParser) -> None:
    _measured(parser)


def _peaks(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import peaks

    peaks.run(repeats=args.repeats)


def _train_flags(parser: argparse.ArgumentParser) -> None:
    several = {"action": "append", "default": None}
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        **several,
        help="L or 124M: GPT-2 124M, 1 x 1024 tokens (default); M, S: nanoGPT's small ones; repeatable",
    )
    parser.add_argument("--precision", choices=PRECISIONS, **several, help="of all (default float32); repeatable")
    parser.add_argument(
        "--peer",
        choices=PEERS,
        **several,
        help="torch, torch.compile: transformers' GPT-2 under PyTorch; keras-hub: its GPT-2 under fit; all: those that "
        "are installed (default torch.compile); repeatable",
    )
    parser.add_argument("--steps", type=at_least(1), help="timed steps a run (default 5; 20 for M, 200 for S)")
    _measured(parser)


def _train(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import train

    train.run(
        shapes=args.shape or ["L"],
        precisions=args.precision or ["float32"],
        peers=args.peer or ["torch.compile"],
        steps=args.steps,
        repeats=args.repeats,
    )


def _generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", choices=["all", "none"], default="all", help="default all")
    parser.add_argument(
        "--batch", type=at_least(1), action="append", help="texts at a time (default: 1, then 8); repeatable"
    )
    parser.add_argument("--rounds", type=at_least(1), default=3, help="timed rounds in each process (default 3)")
    _measured(parser)


def _generate(args: argparse.Namespace) -> None:
    from tfgpt.quiet import quiet_start

    with quiet_start():
        from tfgpt.benchmarks import generate

    generate.run(peers=args.peers, batches=args.batch or [1, 8], repeats=args.repeats, rounds=args.rounds)


def _encode_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="DIR", help="folder of .txt files (default: English that Python carries)")
    parser.add_argument(
        "--encoder_path", metavar="DIR", help="GPT-2's encoder (default: ./encoder or the cache; else one is trained)"
    )
    parser.add_argument("--mb", type=at_least(1), default=64, help="size of the default text (default 64)")
    parser.add_argument("--processes", type=at_least(1), help="for all contestants (default: one a core)")
    _measured(parser)


def _encode(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import encode

    encode.run(
        source=args.input,
        encoder_path=args.encoder_path,
        megabytes=args.mb,
        processes=args.processes,
        repeats=args.repeats,
    )


def _input_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--n_ctx", type=at_least(2), default=1024, help="tokens a window (default 1024)")
    parser.add_argument("--batch_size", type=at_least(1), default=32, help="windows a batch (default 32)")
    parser.add_argument("--tokens", type=at_least(1000), default=8_000_000, help="size of the data (default 8,000,000)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="time for which each mode is read in each run (default 2)"
    )
    _measured(parser)


def _input(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import input as reading

    reading.run(
        n_ctx=args.n_ctx, batch_size=args.batch_size, tokens=args.tokens, seconds=args.seconds, repeats=args.repeats
    )


def _shakespeare_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        metavar="FILE",
        default="data/tinyshakespeare.txt",
        help="default data/tinyshakespeare.txt, where tfgpt download puts it",
    )
    parser.add_argument("--peers", choices=["all", "none"], default="all", help="default all")
    parser.add_argument("--steps", type=at_least(1), help="cut both short")
    _measured(parser)


def _shakespeare(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import shakespeare

    shakespeare.run(text=args.text, steps=args.steps, repeats=args.repeats, peer=args.peers == "all")


def _serve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peers", choices=["all", "none"], default="all", help="default all")
    parser.add_argument(
        "--shape", choices=SHAPES[:-1], default="124M", help="L or 124M: GPT-2 124M (default); M, S: to try this tool"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "int8"], default="int8", help="of ours (default int8)"
    )
    parser.add_argument("--slots", type=at_least(1), help="of ours (default: what a server has by itself)")
    parser.add_argument(
        "--clients",
        type=_counts,
        metavar="N[,N]",
        help="closed loops: clients that each wait for an answer before they ask again (default 1,16; none with --rate)",
    )
    parser.add_argument(
        "--rate", type=_positive, help="open loop: requests a second at random times, answered or not (default: none)"
    )
    parser.add_argument("--prompt_tokens", type=at_least(1), help="of each prompt (default: 8 to 256, half under 32)")
    parser.add_argument("--new_tokens", type=at_least(2), help="of each answer (default: 16 to 128)")
    parser.add_argument("--seconds", type=_positive, default=30.0, help="of each load that count (default 30)")
    _measured(parser)


def _serve(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import serve

    asked = serve.Asked(
        shape="124M" if args.shape == "L" else args.shape,
        dtype=args.dtype,
        slots=args.slots,
        clients=args.clients or ([1, 16] if args.rate is None else []),
        rate=args.rate,
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.new_tokens,
        seconds=args.seconds,
    )
    serve.run(asked, peers=args.peers, repeats=args.repeats)


def _counts(text: str) -> list[int]:
    return [at_least(1)(part) for part in text.split(",")]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _all_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", metavar="WHAT[,WHAT]", help="some of the parts: " + ", ".join(n for n in ACTIONS if n in PARTS)
    )
    _measured(parser, repeats=1)


def _all(args: argparse.Namespace) -> int:
    from tfgpt.benchmarks import everything

    wanted = args.only.split(",") if args.only else [name for name in ACTIONS if name in PARTS]
    return everything.run(wanted, known=[n for n in ACTIONS if n in PARTS], repeats=args.repeats, save=args.save)


def _report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("history", nargs="?", default="", metavar="FILE", help="default: where --save puts it")
    _drawn(parser, "report")


def _report(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import history, past

    past.run(history.place(args.history), output=args.output, into=args.into)


def _drawn(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--into", metavar="X.md", help=f"put the tables between <!-- {name} --> and <!-- /{name} --> of this page"
    )
    parser.add_argument("--output", metavar="X.png", help='draw it as well; needs pip install "tfgpt[plot]"')


def _growth_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="half of the points, in about five minutes")
    parser.add_argument("--precision", choices=PRECISIONS[:2], default="float32", help="default float32")
    parser.add_argument("--only", metavar="AXIS[,AXIS]", help="some of: n_ctx, batch, n_layer, width, vocabulary")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for which each point is timed (default 4)")
    parser.add_argument(
        "--points",
        metavar="FILE",
        help="where each point is appended as it comes (default: growth.jsonl in the cache); what it holds of this "
        "machine and this code is not measured again",
    )
    parser.add_argument("--anew", action="store_true", help="measure again what the file holds already")
    _drawn(parser, "growth")


def _growth(args: argparse.Namespace) -> None:
    from tfgpt.benchmarks import growth

    growth.run(
        quick=args.quick,
        precision=args.precision,
        only=args.only.split(",") if args.only else None,
        seconds=args.seconds,
        points=args.points,
        anew=args.anew,
        into=args.into,
        output=args.output,
    )


def _guard_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", default="", metavar="FILE", help="default: where --save puts it")
    parser.add_argument("--recorded", action="store_true", help="compare the last two kept results; measure nothing")
    parser.add_argument("--only", metavar="WHAT[,WHAT]", help="of these benchmarks only: train,encode,...")
    parser.add_argument(
        "--allowed", type=at_least(0), default=15, metavar="PERCENT", help="a ratio may fall so far (default 15)"
    )


def _guard(args: argparse.Namespace) -> int:
    from tfgpt.benchmarks import guard, history

    only = args.only.split(",") if args.only else None
    return guard.run(history.place(args.history), recorded=args.recorded, only=only, allowed=args.allowed)


# In the order in which `all` goes through its parts: what is short comes first.
Flags = Callable[[argparse.ArgumentParser], None]
Action = Callable[[argparse.Namespace], int | None]
ACTIONS: dict[str, tuple[str, Flags, Action]] = {
    "peaks": ("what the machine can do: matrix products, and reading memory", _peaks_flags, _peaks),
    "input": ("read batches in every mode beside a plain tf.data pipeline", _input_flags, _input),
    "encode": ("text to ids beside tiktoken", _encode_flags, _encode),
    "train": ("steps of GPT-2 on the CPU beside PyTorch and keras-hub", _train_flags, _train),
    "generate": (
        "tokens of GPT-2 124M on the CPU beside transformers and CTranslate2",
        _generate_flags,
        _generate,
    ),
    "shakespeare": ("time to a loss beside nanoGPT's recipe for a CPU", _shakespeare_flags, _shakespeare),
    "serve": ("tfgpt serve beside a plain wrapper of transformers, the same clients for both", _serve_flags, _serve),
    "all": ("one after the other, each beside its peers", _all_flags, _all),
    "report": ("what was kept with --save: a table, and a picture", _report_flags, _report),
    "guard": ("measure again what was kept, and fail where a ratio fell", _guard_flags, _guard),
    "growth": ("how speed and memory change with context, batch, depth, width and vocabulary", _growth_flags, _growth),
}
PARTS = ("peaks", "input", "encode", "train", "generate", "shakespeare", "serve")
