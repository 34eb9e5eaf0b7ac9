"""Turn text into verified TFRecords: folders (recursive), globs, files or gs:// paths of .txt, .jsonl, .csv, .parquet
(each also .gz, .zst, .xz), tar archives, nanoGPT .bin and encode.py .npz files. Documents are repaired (ftfy), short ones
and duplicates dropped, train and eval split by content, and all of it written down in ledger.json beside the shards.
Killed at any moment, the same command goes on and ends with the same bytes.

example:
  tfgpt encode my_texts more/*.jsonl.zst --encoder_path encoder --output data/my_text
  tfgpt data check data/my_text
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from tfgpt.cli import at_least

if TYPE_CHECKING:
    from tfgpt.data.documents import Rules

SEED_NAME = "openwebtext-newspaper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt encode`."""
    parser.add_argument("inputs", nargs="+", metavar="PATH", help="folders, files, quoted globs or gs:// paths")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the TFRecords and the ledger go (or gs://)"
    )
    group = parser.add_argument_group("tokenizer")
    group.add_argument(
        "--tokenizer", default="gpt2", metavar="T",
        help='gpt2, char, char+bytes, byte, bpe:4096 (trained on this text) or a folder (default "gpt2")',
    )  # fmt: skip
    group.add_argument("--encoder_path", metavar="DIR", help="folder of encoder.json and vocab.bpe")
    group = parser.add_argument_group("input")
    group.add_argument("--key", default="text", help='JSON key, or column, of the text (default "text")')
    group.add_argument(
        "--format",
        choices=["text", "jsonl", "json", "csv", "parquet", "tar", "chat", "bin", "npz"],
        help="instead of the suffix",
    )
    group.add_argument(
        "--encoding", default="utf-8", help='of text files (default "utf-8"; byte order marks are honoured)'
    )
    group.add_argument(
        "--me", default="", metavar="NAME", help='chat: the "sender" that is me in an export (default: "me" or true)'
    )
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags that the seed's create_tfrecords.py shares."""
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--minimum_size", type=at_least(0), default=25, metavar="N", help="drop documents of fewer tokens (default 25)"
    )
    group.add_argument("--no_ftfy", action="store_true", help="do not repair text with ftfy (NFKC)")
    group.add_argument("--keep_duplicates", action="store_true", help="keep exact duplicates")
    group.add_argument(
        "--eval_fraction",
        type=_fraction,
        default=0.05,
        metavar="F",
        help="share held out for evaluation (default 0.05, 0 for none)",
    )
    group.add_argument(
        "--split", choices=["auto", "documents", "tail", "none"], default="auto",
        help="hold out whole documents by content, or the end of each; auto: the end of each where documents are few",
    )  # fmt: skip
    group = parser.add_argument_group("output")
    group.add_argument("--name", default="text", help='shards are called NAME_0.tfrecords, ... (default "text")')
    group.add_argument("--shard_mb", type=at_least(1), default=64, metavar="MB", help="size of a shard (default 64)")
    group.add_argument(
        "--files_per", type=at_least(1), metavar="N", help="a shard for every N documents instead, as the seed does"
    )
    group.add_argument("--restart", action="store_true", help="begin anew, replacing what the folder holds")
    group = parser.add_argument_group("work")
    group.add_argument("--processes", type=at_least(1), metavar="N", help="worker processes (default: one a core)")
    group.add_argument(
        "--runner", metavar="R", help="an Apache Beam runner: DirectRunner, DataflowRunner, FlinkRunner, ..."
    )
    group.add_argument(
        "--runner_option", action="append", default=[], metavar="--K=V", help="handed to the Beam runner (repeatable)"
    )
    group.add_argument(
        "--spool", metavar="DIR", help="where Beam workers leave results: gs:// if they run on other machines"
    )


def run(args: argparse.Namespace) -> None:
    """Encode and say what came of it."""
    from tfgpt.cli import own_name
    from tfgpt.data.encode import encode
    from tfgpt.data.job import Job
    from tfgpt.data.show import summary

    job = Job(
        args.inputs, args.output, rules_of(args), name=args.name, split=args.split, format=args.format,
        drop_duplicates=not args.keep_duplicates, shard_bytes=args.shard_mb << 20, files_per=args.files_per,
        processes=args.processes, runner=args.runner, runner_options=args.runner_option, spool=args.spool, restart=args.restart,
        tokenizer=args.tokenizer, encoder_path=args.encoder_path,
    )  # fmt: skip
    result = encode(job)
    print("\n".join(summary(result)))
    for split, fix in (("eval", "raise --eval_fraction, or add documents"), ("train", "lower --eval_fraction")):
        if not result.totals(split)["records"] and result.rules["split"] != "none":
            print(f"{split} is empty: no document fell into it; {fix}, and encode anew with --restart")
    print(f"next: {own_name()} data check {shlex.quote(args.output)}")


def rules_of(args: argparse.Namespace) -> Rules:
    """How the flags want documents to be treated."""
    from tfgpt.data.documents import Rules

    return Rules(
        minimum_size=args.minimum_size, fix_text=not args.no_ftfy, eval_fraction=args.eval_fraction,
        key=args.key, encoding=args.encoding, me=getattr(args, "me", ""),  # the seed's script has no such flag
    )  # fmt: skip


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value != 0 and not 1e-6 <= value < 1:
        raise argparse.ArgumentTypeError("must be 0, or at least 0.000001 and below 1")
    return value
