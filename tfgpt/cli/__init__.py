"""`tfgpt VERB`: one module a verb, imported only when that verb is asked for, so that `tfgpt --help` is instant.

A verb's module offers `add_arguments(parser)` and `run(args) -> int | None`; its docstring is the help text and ends with
an example. TensorFlow is imported inside `run`, by the verbs that need it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tfgpt.errors import Interrupted, UserError, nearest
from tfgpt.quick import skip_pictures

VERBS = {
    "encode": "turn text (folders, jsonl, csv, archives, ...) into verified TFRecords",
    "data": "check or show a folder of TFRecords, or a batch of what training sees",
    "prepare": "make ready the data that a configuration names",
    "train": "train the model that a configuration describes, or go on with it",
    "predict": "write text with a trained model",
    "chat": "talk with a trained model, in turns",
    "score": "say how likely a model finds a text",
    "serve": "serve models over HTTP, with OpenAI's routes",
    "import": "make a checkpoint of a model that others have stored",
    "export": "write a model in the form of others",
    "certify": "prove that two forms of a model compute the same",
    "check": "say what a configuration will cost, before it is trained",
    "verify": "check the checkpoints of a run, byte by byte",
    "report": "one HTML page about a run, or several side by side",
    "tokenizer": "train a tokenizer on your text, or look at one",
    "config": "show, compare and explain JSON configurations",
    "extract": "turn archives of HTML into plain text",
    "download": "fetch released models, the GPT-2 encoder and sample data",
    "bench": "measure speed beside the plain way, in one run",
    "demo": "the whole way on English text that Python itself carries",
}


SETTING = re.compile(r"[A-Za-z_][\w.]*=")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is None:
        return _top_level(argv)
    if verb not in VERBS:
        guess = nearest(verb, list(VERBS))
        return complain(UserError(f'unknown verb "{verb}"', nearest=guess, fix="tfgpt --help lists the verbs"))
    before = argv[: argv.index(verb)]
    return run_verb(f"tfgpt.cli.{verb}", before + argv[argv.index(verb) + 1 :], prog=f"tfgpt {verb}")


def run_verb(module_name: str, argv: Sequence[str], *, prog: str) -> int:
    """Parse and run one verb's module; every thin script of the repository comes in here."""
    module = importlib.import_module(module_name)
    # The example is what people look for: it stands last.
    description, mark, example = (module.__doc__ or "").partition("\nexample:")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=(mark + example).strip() or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    _add_common(parser)
    args = parser.parse_args(spread(argv))
    return guarded(lambda: module.run(args), verbose=hasattr(args, "verbose"), debug=hasattr(args, "debug"))


def spread(argv: Sequence[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`; what is no setting behind it stays an argument of its own.

    >>> spread(["--set", "a=1", "b=2", "file"])
    ['--set', 'a=1', '--set', 'b=2', 'file']
    """
    found: list[str] = []
    for i, word in enumerate(argv):
        if i > 1 and SETTING.match(word) and SETTING.match(argv[i - 1]) and "--set" in found[-2:]:
            found.append("--set")
        found.append(word)
    return found


def guarded(action, *, verbose: bool = False, debug: bool = False) -> int:
    """Run `action` and turn what it raises into one clear report and an exit code (no traceback unless `debug`)."""
    if not verbose:
        # TensorFlow's start-up lines tell a user nothing; -v brings them back.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    skip_pictures()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a C locale must not kill a long job over one character
    try:
        # A polite end is an error like any other: what is open gets closed, workers end, and the exit code says why.
        signal.signal(signal.SIGTERM, _terminated)
    except ValueError:
        pass  # not the main thread: signals are somebody else's business
    try:
        return action() or 0
    except BrokenPipeError:
        # `tfgpt data show D | head` closes our stdout; that is the reader's right, not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        if debug:
            raise
        return complain(error)


def at_least(least: int):
    """An argparse type: a whole number that is not below `least`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return value

    return number


def own_name() -> str:
    """How the user can call this program again: `tfgpt` where that is on the PATH, otherwise by where it lies.

    Every command that tfgpt prints begins with it, so that it can be copied from the screen as it stands.
    """
    python, here = Path(sys.executable), Path.cwd()
    script = python.with_name("tfgpt.exe" if os.name == "nt" else "tfgpt")
    found = shutil.which("tfgpt")
    if found and Path(found) == script:
        return "tfgpt"
    program = script if script.exists() else python
    if here != Path(here.anchor) and program.is_relative_to(here):
        program = program.relative_to(here)
    return shlex.quote(str(program)) + ("" if program.name == script.name else " -m tfgpt")


def quoted(path: str) -> str:
    """A path as a word of a command that is printed: no shell and no flag can be seen in it.

    >>> quoted("-my model")
    "'./-my model'"
    """
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def complain(error: BaseException) -> int:
    """Print `error` as the user should see it; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(signal.SIGINT)
    if isinstance(error, Interrupted):
        print(f"tfgpt: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, UserError):
        print(f"tfgpt: error: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        print(f"tfgpt: error: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    print(
        f"tfgpt: error: {type(error).__name__}: {error}\n  fix:     run again with --debug and report the traceback",
        file=sys.stderr,
    )
    return 1


def _terminated(number: int, frame: object) -> None:
    raise Interrupted(number)


def _add_common(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _add_common(sub)
    # SUPPRESS: a sub-action that was not given the flag must not overwrite what was given before its name.
    group = parser.add_argument_group("every verb")
    group.add_argument(
        "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show TensorFlow's own messages as well"
    )
    group.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")


def _top_level(argv: list[str]) -> int:
    from tfgpt import __version__

    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="tfgpt",
        usage="tfgpt VERB [options]",
        description="Train a GPT of your own with TensorFlow 2 and Keras 3.",
        epilog=f"verbs:\n{lines}\n\n`tfgpt VERB --help` explains a verb and ends with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tfgpt {__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
