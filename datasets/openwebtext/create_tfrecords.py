"""Folders of text files to TFRecords, with the seed's parameters as flags. `tfgpt encode` does the same for more formats.

example:
  python datasets/openwebtext/create_tfrecords.py --base_dir parsed --output_dir data/openwebtext --encoder_path encoder
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The script also runs from a clone in which nothing was installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tfgpt.cli import encode, guarded


def main() -> int:
    """Translate the seed's parameters into those of `tfgpt encode`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base_dir", dest="inputs", nargs="+", required=True, metavar="DIR", help="folders of .txt files"
    )
    parser.add_argument("--output_dir", dest="output", required=True, metavar="DIR", help="where the TFRecords go")
    parser.add_argument("--encoder_path", metavar="DIR", help="folder of encoder.json and vocab.bpe")
    parser.add_argument("--log_dir", metavar="DIR", help="accepted and not needed: progress lies in the output folder")
    parser.add_argument("-v", "--verbose", action="store_true", help="show TensorFlow's own messages as well")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    encode.add_common(parser)
    # The seed made no held-out set, and cut shards by the number of files.
    parser.set_defaults(
        tokenizer="gpt2", key="text", format=None, encoding="utf-8", name=encode.SEED_NAME, eval_fraction=0.0,
        files_per=175_000, processes=None,
    )  # fmt: skip
    args = parser.parse_args()
    return guarded(lambda: encode.run(args), verbose=args.verbose, debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
