"""Take the article text out of one archive of HTML pages, with the flags that this script has always had.

example:
  python datasets/openwebtext/extract_text.py --html_archive RS_2017-04_data.tar.xz --n_procs 5 --output_dir parsed
"""

import argparse
import sys
from pathlib import Path

# `datasets` is no package, so that it does not hide the one of that name on PyPI; and the script is to run
# from any folder, in a clone of the repository in which tfgpt was never installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tfgpt.cli import guarded
from tfgpt.cli.extract import add_limits, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html_archive", required=True, help="tar archive of pages (.xz, .gz, .zst, .bz2 or plain)")
    parser.add_argument("--chunk_size", type=int, default=100, help="pages in one line of the journal (default 100)")
    parser.add_argument("--n_procs", type=int, default=5, help="worker processes (default 5)")
    parser.add_argument("--output_dir", default="parsed", help="folder for the texts (default parsed)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_limits(parser)
    args = parser.parse_args()
    args.paths, args.output, args.processes = [args.html_archive], args.output_dir, args.n_procs
    args.engine, args.language, args.min_characters = "newspaper", "en", 1
    return guarded(lambda: run(args), debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
