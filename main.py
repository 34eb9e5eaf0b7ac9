"""Make everything ready that a configuration names: check the file, encode its text if need be, and say what there is.

example:
  python main.py --model model_configs/quickstart.json
"""

import sys

from tfgpt.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("tfgpt.cli.prepare", sys.argv[1:], prog="python main.py"))
