"""Show, compare and explain JSON configurations.

A configuration is the path of a JSON file or the name of a preset (117M, my_text, ...).

  tfgpt config show my.json --set lr=1e-4    every value, and whether it comes from the file, --set or a default
  tfgpt config diff 117M my.json             the values that differ
  tfgpt config schema                        the JSON schema, for editors
  tfgpt config reference                     the reference page of all keys

example:
  tfgpt config show 117M --set n_ctx=512
"""

from __future__ import annotations

import argparse
import json

SET_HELP = "override one key: JSON or text, dots reach inside lists; may be repeated"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|diff|schema|reference")
    show = actions.add_parser("show", help="print every value and where it comes from", allow_abbrev=False)
    show.add_argument("config", metavar="CONFIG", help="JSON file or preset name")
    show.add_argument("--json", action="store_true", help="print a complete JSON configuration instead")
    show.add_argument("--check_files", action="store_true", help="the files and folders it names must exist, too")
    diff = actions.add_parser("diff", help="print the values that differ", allow_abbrev=False)
    diff.add_argument("config", metavar="A", help="JSON file or preset name")
    diff.add_argument("other", metavar="B", help="JSON file or preset name")
    for action in (show, diff):
        action.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    actions.add_parser("schema", help="print the JSON schema, for editors")
    actions.add_parser("reference", help="print the reference of all keys as Markdown")


def run(args: argparse.Namespace) -> int:
    from tfgpt import config

    if args.action == "schema":
        print(json.dumps(config.json_schema(), indent=2))
    elif args.action == "reference":
        print(config.reference(), end="")
    elif args.action == "diff":
        # Overrides are laid over both sides: what is left is the difference between the files under them.
        left, right = (config.load(name, args.overrides, check_files=False) for name in (args.config, args.other))
        rows = config.differences(left, right)
        print(_columns([("key", args.config, args.other), *rows]) if rows else "no differences")
    else:
        loaded = config.read(args.config, args.overrides, check_files=args.check_files)
        print(json.dumps(loaded.config.model_dump(), indent=2) if args.json else _show(loaded))
    return 0


def _show(loaded) -> str:
    from tfgpt.config import SECTIONS

    values = loaded.config.model_dump()
    rows = {key: (key, json.dumps(values[key], ensure_ascii=False), loaded.origins[key]) for key in values}
    lines = iter(_columns(list(rows.values()), indent="  ").split("\n"))
    # Columns are as wide as the widest value of all groups, so they are set first and split into groups after.
    texts = dict(zip(rows, lines, strict=True))
    parts = [loaded.name]
    for section in SECTIONS:
        parts += ["", section.__doc__, *(texts[key] for key in section.model_fields)]
    return "\n".join(parts)


def _columns(rows: list[tuple[str, ...]], indent: str = "") -> str:
    widths = [min(60, max(map(len, column))) for column in zip(*rows, strict=True)]
    return "\n".join(indent + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
