"""Train the model that a configuration describes: encode its text on first use, train to exactly max_steps, evaluate on
the way, save checkpoints, and write report.html. The same command again goes on where it was stopped or killed.

example:
  tfgpt train --model my_text --set text=my_folder
  python main.py --model model_configs/117M.json --tpu my-tpu
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags shared with main.py."""
    parser.add_argument(
        "--model", required=True, metavar="X.json", help="a JSON configuration, or the name of a preset"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value (repeatable)")
    parser.add_argument("--tpu", metavar="NAME", help='train on this TPU ("local": the one this machine is part of)')
    parser.add_argument(
        "--workers", default="", metavar="HOST:PORT,…", help="train on several machines; the same list on each of them"
    )
    parser.add_argument(
        "--worker", type=int, default=0, metavar="I", help="which of --workers this machine is (from 0)"
    )
    parser.add_argument("--eval_only", action="store_true", help="evaluate the newest checkpoint, and train nothing")
    parser.add_argument(
        "--allow_change", action="store_true", help="go on although the configuration or the data has changed"
    )


def run(args: argparse.Namespace) -> int | None:
    """Train, or evaluate."""
    from tfgpt import config
    from tfgpt.quiet import quiet_start

    settings = config.load(args.model, overrides=args.set)
    with quiet_start():
        from tfgpt.estimator import Estimator
    workers = [address.strip() for address in args.workers.split(",") if address.strip()]
    estimator = Estimator(settings, tpu=args.tpu, workers=workers, worker=args.worker, allow_change=args.allow_change)
    if args.eval_only:
        estimator.evaluate()
        return 0
    estimator.train_and_evaluate()
    run_folder = estimator.config.model_path
    estimator.say(f"checkpoints, metrics and the report are in {run_folder}; open {run_folder}/report.html")
    return 0
