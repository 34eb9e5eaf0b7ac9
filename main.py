"""Train the model that a JSON configuration describes, or write text with it; `tfgpt train` is the same.

example:
  python main.py --model model_configs/quickstart.json
  python main.py --model model_configs/117M.json --tpu my-tpu
  python main.py --model model_configs/117M.json --predict_text "Hello there" --top_k 40
"""

import sys

from tfgpt.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("tfgpt.cli.train", sys.argv[1:], prog="python main.py"))
