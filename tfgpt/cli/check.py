"""Know before you start: what a configuration makes of your data and of this machine, point by point.

Configuration, data, vocabulary, batches, model, memory, disk, device, an earlier run in its folder, and a few real steps on
random tokens, from which the end of training is foretold. Nothing is created: text that was never encoded is sampled.

With --hardware the run is foretold on other machines, on paper: memory of each device, time of a step and where it goes,
tokens a second, days. No data is needed for it.

The exit code is 0, or 1 if any point has a cross; ! marks what deserves a thought.

example:
  tfgpt check my_text --set text=my_folder
  tfgpt check model_configs/117M.json --no_timing
  tfgpt check model_configs/1.5B.json --hardware v5p --devices 256
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass, field

from tfgpt.cli import own_name

GOOD, BAD, THOUGHT = "✓", "✗", "!"
PLAIN = {GOOD: "ok", BAD: "NO", THOUGHT: "! "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt check`."""
    parser.add_argument("model", metavar="X.json", help="a JSON configuration, or the name of a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value (repeatable)")
    parser.add_argument("--tpu", metavar="NAME", help='the TPU it is to be trained on ("local": of this machine)')
    parser.add_argument("--no_timing", action="store_true", help="leave out the steps on random tokens")
    parser.add_argument(
        "--measure", action="store_true", help="hold the estimate of memory against a real process that trains 3 steps"
    )
    parser.add_argument(
        "--hardware",
        metavar="NAME",
        help="foretell the run on other machines: v3, v4, v5e, v5p, v6e, t4, v100, a100, h100, h200, this (several like this "
        "one), or a JSON file; NAME,memory=94e9 changes a figure",
    )
    parser.add_argument(
        "--devices", type=int, metavar="N", help="how many of them (1; without --hardware: like this machine)"
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        metavar="SHARE",
        help="share of the hardware's peak that products are taken to reach (0.4; 0.6 on CPUs)",
    )


def run(args: argparse.Namespace) -> int:
    """Print all points; 1 if any of them stands in the way of training."""
    from tfgpt import config

    if args.hardware or args.devices is not None or args.efficiency is not None:
        return _elsewhere(args)
    loaded = config.read(args.model, args.set)
    from tfgpt.quiet import quiet_start

    with quiet_start():
        from tfgpt.cli import checking

    report = Report()
    checking.check(loaded, report, tpu=args.tpu, timing=not args.no_timing, measure=args.measure)
    report.end(_command(args))
    return int(report.crosses > 0)


def _elsewhere(args: argparse.Namespace) -> int:
    """The points of a run on other machines, which need no data."""
    from tfgpt import config
    from tfgpt.errors import UserError
    from tfgpt.quiet import quiet_start

    for flag in ("tpu", "measure"):
        if getattr(args, flag):
            raise UserError(
                f"--{flag} asks real devices, --hardware and --devices foretell a run without them",
                where=f"--{flag}",
                fix="leave one of them out",
            )
    if args.efficiency is not None and not 0 < args.efficiency <= 1:
        raise UserError(f"{args.efficiency} is no share of a peak", where="--efficiency", nearest="0.4")
    loaded = config.read(args.model, args.set, check_files=False)
    with quiet_start():
        from tfgpt.cli import elsewhere

    report = Report()
    devices = 1 if args.devices is None else args.devices
    found = elsewhere.check(loaded, report, named=args.hardware or "this", devices=devices, efficiency=args.efficiency)
    command = _command(args)
    if found.kind == "TPU":
        command += " --tpu NAME"
    elif devices > found.node:
        command += " --workers HOST:PORT,HOST:PORT,... --worker 0"
    report.end(f"{command}   (there)")
    return int(report.crosses > 0)


@dataclass
class Report:
    """Numbered points as they become known, so that the quick ones need not wait for the slow ones."""

    count: int = 0
    crosses: int = 0
    thoughts: int = 0
    marks: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        try:
            (GOOD + BAD).encode(encoding)
            self.marks = {mark: mark for mark in PLAIN}
        except (UnicodeEncodeError, LookupError):
            self.marks = PLAIN

    def point(self, mark: str, name: str, *lines: str) -> None:
        """One point: what it is about, and what there is to say of it."""
        self.count += 1
        self.crosses += mark == BAD
        self.thoughts += mark == THOUGHT
        first, *rest = lines if self.marks[GOOD] == GOOD else [line.replace("×", "x") for line in lines]
        head = f"{self.count:>2}. {self.marks[mark]} {name:<14} "
        print(head + first, *(" " * len(head) + line for line in rest), sep="\n", flush=True)

    def end(self, command: str) -> None:
        """What to do next."""
        if self.crosses:
            print(f"\n{self.crosses} of {self.count} points stand{'s' * (self.crosses == 1)} in the way of training")
        print(f"\nnext: {command}" if not self.crosses else f"then: {command}")


def _command(args: argparse.Namespace) -> str:
    words = [f"--model {shlex.quote(args.model)}"]
    words += [f"--set {shlex.quote(setting)}" for setting in args.set]
    words += [f"--tpu {shlex.quote(args.tpu)}"] if args.tpu else []
    return f"{_trainer()} {' '.join(words)}"


def _trainer() -> str:
    """How training is started from here: the repository's main.py where one lies, otherwise the verb."""
    from pathlib import Path

    if Path("main.py").is_file() and Path("tfgpt/cli").is_dir():
        return "python main.py"
    return f"{own_name()} train"
