"""Train the model that a configuration describes: encode its text on first use, train to exactly max_steps, evaluate on
the way, save checkpoints, and write report.html. The same command again goes on where it was stopped or killed.
With --predict_text, --predict_file, --prompts or --interactive, write text with the model as it is by now.

example:
  tfgpt train --model my_text --set text=my_folder
  python main.py --model model_configs/117M.json --tpu my-tpu
  python main.py --model model_configs/117M.json --predict_text "Hello there" --top_k 40
"""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags shared with main.py."""
    from tfgpt.cli import sampling_flags

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
    sampling_flags.add_sources(parser, short=False)
    sampling_flags.add_options(parser)


def run(args: argparse.Namespace) -> int | None:
    """Train, evaluate, or write text."""
    from tfgpt import config
    from tfgpt.cli import sampling_flags
    from tfgpt.errors import UserError
    from tfgpt.quiet import quiet_start

    if sources := sampling_flags.given(args, sources=True):
        if args.eval_only:
            raise UserError(
                f"--eval_only and --{sources[0]} are two different things to do", fix="leave one of them out"
            )
        return predict(args)
    if flags := sampling_flags.given(args, sources=False):
        raise UserError(
            f"--{flags[0]} is about writing text, and nothing is to be written",
            fix='add --predict_text "..." (or --predict_file, --prompts, --interactive), or leave it out',
        )
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


def predict(args: argparse.Namespace) -> int:
    """Write text with the newest checkpoint of the run; each is printed, and appended to `predict_path`."""
    from tfgpt import config
    from tfgpt.cli import predicting, sampling_flags

    if args.tpu or args.workers:
        print("note: text is written on this machine; --tpu and --workers are for training", file=sys.stderr)
    # The data is not needed, and may be gone.
    settings = config.load(args.model, overrides=args.set, check_files=False)
    options = sampling_flags.options_of(args, top_k=settings.top_k, num_samples=settings.predict_batch_size)
    return predicting.run(
        args, settings.model_path, options, blocks=True, append_to=settings.predict_path, like=settings
    )
