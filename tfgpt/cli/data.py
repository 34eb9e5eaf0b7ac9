"""Look after a folder of TFRecords: `check` reads every byte and names damage by file and offset, `show` prints totals,
document lengths and decoded samples. `batch` takes a configuration instead and prints what a training step is given.

example:
  tfgpt data check data/my_text
  tfgpt data show data/my_text --samples 3
  tfgpt data batch quickstart --step 1000
"""

from __future__ import annotations

import argparse

from tfgpt.cli import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt data`."""
    parser.add_argument("action", choices=["check", "show", "batch"])
    parser.add_argument(
        "folder",
        metavar="DIR | X.json",
        help="what `tfgpt encode --output` made (local or gs://); batch: a configuration, or the name of a preset",
    )
    parser.add_argument("--encoder_path", metavar="DIR", help="check: vocabulary for old files that have no ledger")
    parser.add_argument("--json", action="store_true", help="check: one JSON object for scripts")
    parser.add_argument(
        "--samples",
        type=at_least(0),
        default=2,
        metavar="N",
        help="show: decoded documents; batch: decoded rows (default 2)",
    )
    parser.add_argument("--split", choices=["train", "eval"], default="train", help="show and batch: of which split")
    parser.add_argument("--seed", type=int, default=0, help="show: another seed draws other documents")
    parser.add_argument("--step", type=at_least(0), default=0, metavar="N", help="batch: of which step (default 0)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="batch: change one value (repeatable)"
    )


def run(args: argparse.Namespace) -> int:
    """Check or show; a fault makes the exit code 1."""
    return {"check": _check, "show": _show, "batch": _batch}[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from tfgpt.data import check

    report = check.check(args.folder, n_vocab=check.vocabulary_of(args.encoder_path))
    if args.json:
        print(check.to_json(report))
        return int(bool(report.faults))
    print(
        f"{report.shards} shards, {report.records:,} documents, {report.tokens:,} tokens; "
        f"largest id {report.largest_id}, documents of {report.shortest} to {report.longest} tokens"
    )
    for fault in report.faults[:20]:
        print(f"fault: {fault}")
    if len(report.faults) > 20:
        print(f"... and {len(report.faults) - 20} more")
    if report.unfinished:
        print("fix: repeat the tfgpt encode command that was interrupted")
    elif not report.faults:
        print(
            "every byte is what it should be"
            if report.ledger
            else "checksums are right; there is no ledger to compare with"
        )
    else:
        print(
            f"{len(report.faults)} fault(s). fix: encode the text anew with --restart, or restore the files named above"
        )
    return int(bool(report.faults))


def _show(args: argparse.Namespace) -> int:
    from tfgpt.data import ledger, show

    known = ledger.read(args.folder)
    print("\n".join(show.summary(known)))
    print(f"\nlength of {args.split} documents, up to")
    print("\n".join(show.histogram(show.lengths(args.folder, known, args.split))))
    tokenizer = show.folder_tokenizer(args.folder)
    for place, ids in show.samples(args.folder, known, args.split, count=args.samples, seed=args.seed):
        print(f"\n--- {place} ---\n{show.excerpt(tokenizer, ids)}")
    return 0


def _batch(args: argparse.Namespace) -> int:
    from tfgpt import config
    from tfgpt.data import show_batch
    from tfgpt.data.inputs import open_inputs

    inputs = open_inputs(config.load(args.folder, overrides=args.set))
    for note in inputs.notes:
        print(f"note: {note}")
    print("\n".join(show_batch.lines(inputs, args.split, args.step, rows=args.samples)))
    return 0
