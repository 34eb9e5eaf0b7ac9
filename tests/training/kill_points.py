"""A save that dies at its k-th touch of the disk; run by test_checkpoint_kill.py as `kill_points.py BASE CASES STEP SALT LOSS`.

For every k, BASE is copied to CASES/k, and a process of its own saves there and is killed (-9) just before its k-th
mkdir, write, fsync, rename, unlink or rmdir; writes are also cut in half. The last case is the save that nobody kills.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

from tests.training.checkpoint_content import content
from tfgpt import files
from tfgpt.training import saver
from tfgpt.training.checkpoints import Checkpoints


def main(base: str, cases: str, step: int, salt: int, loss: str) -> None:
    k = 0
    while True:
        case = os.path.join(cases, f"{k:03}")
        shutil.copytree(base, case, copy_function=os.link)  # nothing is ever changed in place
        child = os.fork()
        if not child:
            try:
                save(case, k, step, salt, loss)
            finally:
                os._exit(9)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        k += 1


def save(case: str, k: int, step: int, salt: int, loss: str) -> None:
    left = [k]

    def point() -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def wrap(name: str, act: bool = True) -> None:
        true = getattr(os, name)

        def wrapped(*given, **keys):
            point()
            return true(*given, **keys) if act else None

        setattr(os, name, wrapped)

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        wrap(name)
    wrap("fsync", act=False)  # a killed process takes nothing of the system's with it, and syncing is slow

    class Cut:
        """A stream whose writes can end in the middle."""

        def __init__(self, *given, **keys) -> None:
            self.stream = open(*given, **keys)

        def write(self, piece) -> None:
            half = len(piece) // 2 if len(piece) > 1500 else 0
            for part in (piece[:half], piece[half:]) if half else (piece,):
                point()
                self.stream.write(part)
                self.stream.flush()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *given) -> None:
            self.stream.close()

    saver.open = files.open = Cut
    checkpoints = Checkpoints(case, keep_last=1)
    if loss != "none":
        checkpoints.mark_best(step, float(loss))
    checkpoints.save(step, *content(step, salt), wait=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
