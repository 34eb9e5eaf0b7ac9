"""Serve models over HTTP: the routes of OpenAI's API, and those of the older dixie server.

CONFIG is a JSON file that names the models; docs/serving.md tells its keys. Models are loaded when they are asked for and leave
by least recent use. SIGTERM and Ctrl-C let what is being written end first, for --grace seconds.

example:
  tfgpt serve server_config.json
  curl --data '{"model_key": "general", "raw_text": "Once upon"}' http://127.0.0.1:12345/invocations
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tfgpt serve`."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a JSON file; --sample prints one to begin with")
    parser.add_argument("--host", help="in place of that in the file")
    parser.add_argument("--port", type=int, help="in place of that in the file; 0: any that is free")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that texts get to end in (default 30)")
    parser.add_argument("--sample", action="store_true", help="print a configuration to begin with")
    parser.add_argument("--check", action="store_true", help="check the file, and serve nothing")


def run(args: argparse.Namespace) -> int:
    """Check, then serve until a signal comes."""
    from tfgpt.errors import UserError
    from tfgpt.serving import settings as reader

    if args.sample:
        print(reader.SAMPLE.read_text("utf-8"), end="")
        return 0
    if args.config is None:
        raise UserError("no CONFIG given", fix="tfgpt serve --sample > server_config.json makes one to begin with")
    settings = reader.load(args.config)
    given = {name: value for name in ("host", "port") if (value := getattr(args, name)) is not None}
    settings = settings.model_copy(update=given)
    for warning in settings.warnings:
        print(f"warning: {warning}", flush=True)
    if args.check:
        print(f"{args.config}: {len(settings.models)} models, all is well")
        return 0
    try:
        from tfgpt.serving.running import serve
    except ImportError as error:
        raise UserError(f"serving needs {error.name}", fix='pip install "tfgpt[serve]"') from None
    return serve(settings, grace=args.grace)
