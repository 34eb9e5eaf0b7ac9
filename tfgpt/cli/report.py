"""Make the report of a training run: one HTML file that opens anywhere, offline, from the run's metrics.jsonl alone.

RUN is the folder of a run (model_path in its configuration, gs:// too); the run may still be going on. Several runs are
laid over each other, with a table of the keys in which they differ.

example:
  tfgpt report models/mine
  tfgpt report models/small models/large --output both.html --png both.png
"""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt report`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or its metrics.jsonl")
    parser.add_argument(
        "--output", metavar="FILE.html", help="default: report.html in the run's folder; of several runs, in this one"
    )
    parser.add_argument("--png", metavar="FILE.png", help="draw a picture as well (needs matplotlib)")


def run(args: argparse.Namespace) -> None:
    """Write what was asked for and say where it is."""
    from tfgpt import files, report
    from tfgpt.errors import UserError

    for flag, path in (("--output", args.output), ("--png", args.png)):
        folder = os.path.dirname(path or "")
        if path and not files.is_remote(path) and (os.path.isdir(path) or (folder and not os.path.isdir(folder))):
            what = "is a folder" if os.path.isdir(path) else "lies in a folder that does not exist"
            raise UserError(f"the file that {flag} names {what}", where=path, fix=f"give {flag} the path of a new file")
    if args.output:
        output = args.output
    elif len(args.runs) == 1:
        output = files.join(args.runs[0].removesuffix("metrics.jsonl") or ".", "report.html")
    else:
        output = "report.html"
    report.write(args.runs, output)
    print(f"wrote {output}")
    if args.png:
        report.write_png(args.runs, args.png)
        print(f"wrote {args.png}")
