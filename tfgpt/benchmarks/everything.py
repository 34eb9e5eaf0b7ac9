"""`tfgpt bench all`: one benchmark after the other, each as its own command; one JSON object for all of them at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tfgpt.benchmarks import history
from tfgpt.benchmarks.peers import installed
from tfgpt.benchmarks.processes import Result
from tfgpt.errors import UserError, nearest
from tfgpt.machine import cores
from tfgpt.progress import clock

FLAGS = {"train": ["--shape", "all", "--precision", "all", "--peer", "all"]}
# Without these the command would refuse; measured alone it still says something.
PEERS = {
    "generate": ("ctranslate2", "torch", "transformers"),
    "shakespeare": ("torch",),
    "serve": ("torch", "transformers"),
}
REFUSED = 2  # exit code: something is missing, and what mends it was said


def run(wanted: list[str], *, known: list[str], repeats: int, save: str | None) -> int:
    """Run the parts `wanted`, of those that are `known`; 1 if one of them failed, which does not end the others."""
    for name in wanted:
        if name not in known:
            raise UserError(
                f'unknown benchmark "{name}"', where="--only", nearest=nearest(name, known), fix=",".join(known)
            )
    path = None
    if save is not None:
        path = history.place(save)
        history.check(path)
    parts: Result = {}
    left_out: dict[str, str] = {}
    started = time.monotonic()
    failed = False
    for number, name in enumerate(wanted, 1):
        print(f"\n== {name} ({number} of {len(wanted)}, {clock(time.monotonic() - started)} so far)", flush=True)
        words = [name, *FLAGS.get(name, []), "--repeats", str(repeats)]
        if missing := [package for package in PEERS.get(name, ()) if not installed(package)]:
            print(f"without peers: {', '.join(missing)} not installed", flush=True)
            words += ["--peers", "none"]
        code, found = one(words + (["--save", str(path)] if path else []))
        if found is not None:
            parts[name] = found
        else:
            failed |= code != REFUSED
            left_out[name] = "refused; see above" if code == REFUSED else f"failed with exit code {code}"
    for name, why in left_out.items():
        print(f"without {name}: {why}")
    print(json.dumps({"bench": "all", "threads": cores(), "parts": parts, "left_out": left_out}))
    return int(failed)


def one(words: list[str]) -> tuple[int, Result | None]:
    """Run `tfgpt bench WORDS`, showing what it prints but its last line, which is returned."""
    command = [sys.executable, "-m", "tfgpt", "bench", *words]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(last, end="", flush=True)
                last = line
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        print(last, end="", flush=True)
        return process.returncode, None
    return 0, json.loads(last)
