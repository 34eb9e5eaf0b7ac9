"""Turn pages of HTML into plain text, one file a page, ready for `tfgpt encode`.

PATHS are tar archives (plain, .xz, .gz, .zst or .bz2, as the openwebtext downloader makes them), folders of .html files
and of such archives, or single pages. Texts go to OUTPUT/<month or archive>/<page>.txt. A page that fails, hangs or is
too large is counted and reported; a damaged archive is read up to the damage. Stop it at any moment: the same command
goes on where it stopped. Nothing is fetched from the network.

example:
  tfgpt extract RS_2017-04_data.tar.xz RS_2017-05_data.tar.xz --output parsed
  tfgpt encode parsed --output data
"""

from __future__ import annotations

import argparse
import shlex

from tfgpt.extract.limits import Limits

DEFAULTS = Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATHS", help="archives, folders or pages")
    parser.add_argument("--output", required=True, help="folder for the texts; made if need be")
    parser.add_argument(
        "--engine",
        default="newspaper",
        help='newspaper (default), trafilatura, or a function f(html, language) of your own as "package.module:function"',
    )
    parser.add_argument("--language", default="en", help="language of the pages, for newspaper (default en)")
    parser.add_argument("--processes", type=int, help="worker processes (default: one for each core)")
    parser.add_argument("--min_characters", type=int, default=1, help="shorter texts count as empty (default 1)")
    parser.add_argument(
        "--chunk_size",
        type=int,
        default=100,
        help="pages in one line of the journal: what a kill can cost (default 100)",
    )
    add_limits(parser)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The bounds, which the scripts under datasets/ take as well."""
    group = parser.add_argument_group("bounds")
    group.add_argument(
        "--timeout", type=float, default=DEFAULTS.timeout, help="seconds for one page (default %(default)g)"
    )
    group.add_argument(
        "--max_bytes", type=int, default=DEFAULTS.max_bytes, help="bytes of one page, unpacked (default %(default)s)"
    )
    group.add_argument(
        "--max_archive_bytes",
        type=int,
        default=DEFAULTS.max_archive_bytes,
        help="bytes that one archive may unpack to (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from tfgpt.cli import own_name
    from tfgpt.extract import extract

    summary = extract(
        args.paths,
        args.output,
        engine=args.engine,
        language=args.language,
        processes=args.processes,
        limits=Limits(timeout=args.timeout, max_bytes=args.max_bytes, max_archive_bytes=args.max_archive_bytes),
        min_characters=args.min_characters,
        chunk_size=args.chunk_size,
    )
    print(summary)
    if summary.kept:
        print(f"next: {own_name()} encode {shlex.quote(args.output)} --output data")
    # Damage and a run in which nothing worked must not look like success to a script.
    return 1 if summary.damaged or (summary.failed and not summary.kept) else 0
