"""Take the article text out of every archive that files.json, a JSON list of paths, names.

Run it again after an interruption: a journal in the output folder knows what is done, and files.json stays as it is.

example:
  python datasets/openwebtext/run_newspaper_extract.py --files files.json --output_dir parsed
"""

import argparse
import json
import sys
from pathlib import Path

# See extract_text.py: the script runs from any folder, in a clone in which tfgpt was never installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tfgpt.cli import guarded
from tfgpt.cli.extract import add_limits, run
from tfgpt.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="files.json", help="JSON list of archives (default files.json)")
    parser.add_argument("--processes", type=int, help="worker processes (default: one for each core)")
    parser.add_argument("--output_dir", default="parsed", help="folder for the texts (default parsed)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_limits(parser)
    args = parser.parse_args()
    args.output, args.chunk_size = args.output_dir, 100
    args.engine, args.language, args.min_characters = "newspaper", "en", 1

    def action() -> int:
        args.paths = listed(Path(args.files))
        return run(args)

    return guarded(action, debug=args.debug)


def listed(path: Path) -> list[str]:
    """The archives that the JSON file names."""
    example = 'for example ["RS_2017-04_data.tar.xz", "RS_2017-05_data.tar.xz"]'
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError("no list of archives", where=str(path), fix=f"write one, {example}, or --files PATH") from None
    except ValueError as error:
        raise UserError(f"this is no JSON: {error}", where=str(path), fix=f"a JSON list of paths, {example}") from None
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise UserError("not a list of paths", where=str(path), fix=f"a JSON list of paths, {example}")
    return found


if __name__ == "__main__":
    sys.exit(main())
