"""`python download_model.py NAME`: fetch a released model, the encoder or sample data (the same as `tfgpt download`)."""

import sys

from tfgpt.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("tfgpt.cli.download", sys.argv[1:], prog="download_model.py"))
