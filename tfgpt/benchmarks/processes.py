"""Each contestant of a benchmark is a process of its own, so that neither its imports nor its memory are another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

Result = dict[str, Any]


class Broken(Exception):
    """A contestant's process ended badly; the text says why."""


def result_of(module: str, work: object, *more: str, threads: int) -> Result:
    """What `tfgpt.benchmarks.MODULE` prints last, a JSON object, when it is given `work` as JSON, and `more` words."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "-1",  # memory and threads are compared, which a GPU would make meaningless
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", f"tfgpt.benchmarks.{module}", json.dumps(work), *more]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Broken(_why(done.stderr) or f"exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _why(said: str) -> str:
    """A traceback's last line that is not indented names the error, and what follows may say more."""
    lines = said.strip().splitlines()
    last = max((i for i, line in enumerate(lines) if line[:1].strip()), default=0)
    return " ".join(line.strip() for line in lines[last : last + 2])
