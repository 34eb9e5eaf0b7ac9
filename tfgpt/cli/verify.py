"""Check the checkpoints of a run, to the last byte.

Every file is compared with the size and sha256 that were written down when it was saved, every number must be finite,
and shapes and step must agree with the configuration. DIR is a run's folder (the model_path of its configuration) or
one checkpoint, here or in a bucket (gs://). Nothing is changed. The exit code is 0 if all is well, and 1 if not.

  tfgpt verify models/my_model/checkpoints/step-00001000

example:

  tfgpt verify models/my_model
"""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfgpt.training.verification import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a run's folder, or one checkpoint")


def run(args: argparse.Namespace) -> int:
    from tfgpt.training.verification import verify

    reports = verify(args.folder)
    for report in reports:
        print(_line(report))
        for problem in report.problems:
            print(f"    {problem}")
    good = [report for report in reports if report.good]
    if len(reports) > 1 or not good:
        print(f"{len(good)} of {len(reports)} {'is' if len(good) == 1 else 'are'} good" + _next(reports))
    return 0 if len(good) == len(reports) else 1


def _line(report: Report) -> str:
    name = f"step {report.step}" if report.step is not None else report.path
    when = datetime.fromtimestamp(report.time).strftime("%Y-%m-%d %H:%M") if report.time else "no date"
    size = f"{report.bytes / 1e9:.2f} GB" if report.bytes >= 1e9 else f"{report.bytes / 1e6:.2f} MB"
    return f"{'✓' if report.good else '✗'} {name:<14} {size:>10}  {when}" + ("  best" if report.best else "")


def _next(reports: list[Report]) -> str:
    good = [report for report in reports if report.good]
    if len(good) == len(reports):
        return ""
    return f"; the newest good one is of step {good[-1].step}" if good else ""
