"""Starts commands by fork from a process that has imported TensorFlow already, so that twenty of them take no minutes.

Run by the fixture `start` as `starter.py`; it reads one JSON object a line from stdin ({"words": [...], "folder": ...,
"slow": {"train": seconds, ...}}), and answers with {"pid": ...} at once and {"pid": ..., "code": ...} at the end. Nothing
of TensorFlow has run before the fork: each child sets up its own devices and threads, and can be killed like any other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time


def main() -> None:
    import tfgpt.estimator  # noqa: F401  what takes so long

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    lock = threading.Lock()
    print(json.dumps({"ready": True}), file=answers)

    def follow(pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        with lock:
            print(json.dumps({"pid": pid, "code": code}), file=answers)

    for line in sys.stdin:
        job = json.loads(line)
        with lock:
            pid = os.fork()
            if not pid:
                work(job)
            print(json.dumps({"pid": pid}), file=answers)
        threading.Thread(target=follow, args=(pid,), daemon=True).start()


def work(job: dict) -> None:
    """The child: a command as a user gives it, with its output in files of `folder`."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "out"), (2, "err")):
            descriptor = os.open(os.path.join(job["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["folder"])
        os.environ.update(job.get("environment", {}))
        slow_down(job.get("slow", {}))
        from tfgpt.cli import main as command

        code = command(job["words"])
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        os._exit(code)


def slow_down(seconds: dict[str, float]) -> None:
    """Make parts of a run take longer, so that a test can catch it there on any machine."""
    from tfgpt.training import saver
    from tfgpt.training.step import Step

    for name, seconds_each in seconds.items():
        owner, part = (saver, "write") if name == "save" else (Step, name)
        true = getattr(owner, part)

        def slowly(*given, true=true, pause=seconds_each, **keys):
            time.sleep(pause)
            return true(*given, **keys)

        setattr(owner, part, slowly)


if __name__ == "__main__":
    main()
