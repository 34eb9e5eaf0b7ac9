"""Killed with -9 at every touch of the disk, and at random moments: the old state or the new one, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.training.checkpoint_content import content, same
from tfgpt.training.checkpoints import Checkpoints, load, verify


def run(*words) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *map(str, words)], env=environment, cwd=ROOT)


def never(event) -> None:
    assert event["event"] == "save", event


@pytest.mark.parametrize(
    "before, best, step, salt, loss",
    [
        ([], None, 1, 0, "none"),  # the first save of all
        ([1, 2], 1, 3, 0, "none"),  # the newest goes, the best stays
        ([1, 2], 1, 3, 0, "0.5"),  # a new best: both of the old ones go
        ([2, 3], 3, 3, 1, "0.5"),  # the same step with other content, after a rollback
        ([1, 2, 3], None, 1, 1, "none"),  # back to an earlier step
    ],
    ids=["first", "next", "new-best", "again", "back"],
)
def test_killed_at_every_point(tmp_path, monkeypatch, before, best, step, salt, loss):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nothing here cuts the power, and syncing is slow
    base, cases = tmp_path / "base", tmp_path / "cases"
    base.mkdir(), cases.mkdir()
    with Checkpoints(str(base), keep_last=3) as checkpoints:
        for old in before:
            if old == best:
                checkpoints.mark_best(old, 1.0)
            checkpoints.save(old, *content(old))
    assert run(ROOT / "tests/training/kill_points.py", base, cases, step, salt, loss).wait(timeout=120) == 0
    runs, states = sorted(cases.iterdir()), []
    assert len(runs) > 25, "there are this many points at least"
    for case in runs:
        checkpoints = Checkpoints(str(case), keep_last=1, on_event=never)
        found = checkpoints.latest()
        new = found is not None and same(found, step, salt)
        assert new or (found is None if not before else same(found, before[-1]))
        states.append(new)
        # The mark stands or falls with its checkpoint.
        expected = (step, 0.5) if new and loss != "none" else (best, 1.0) if best else None
        assert checkpoints.best() == expected
        if expected:
            best_one = load(str(case), best=True)
            assert same(best_one, step, salt) if expected == (step, 0.5) else same(best_one, best)
        # Whatever is called a checkpoint is whole, at every moment.
        assert all(report.good for report in (verify(str(case)) if found else []))
        # The next run cleans up, goes on, and leaves no trace of the kill.
        checkpoints.clean()
        assert not list((case / "checkpoints").glob(".[st]*"))
        if len(states) % 3 == 0:
            checkpoints.save(9, *content(9), wait=True)
            assert same(checkpoints.latest(), 9)
            assert checkpoints.steps() == sorted({9, *([expected[0]] if expected else [])})
        shutil.rmtree(case)
    # Once there, the new state stays; and both halves of the way were really walked.
    assert states == sorted(states) and states[-1] and not states[0] and sum(states) > (3 if before else 1)


LOOP = """
import sys
import numpy as np
from tfgpt.training.checkpoints import Checkpoints
with Checkpoints(sys.argv[1], keep_last=2) as checkpoints:
    checkpoints.clean()
    found = checkpoints.latest()
    step = found.step if found else 0
    while True:
        step += 1
        if step % 5 == 0:
            checkpoints.mark_best(step, 1 / step)
        weights = {f"w{i}": np.full((256, 1024), step * 10 + i, "float32") for i in range(3)}
        checkpoints.save(step, weights, {"m": np.full(300_000, -step, "float64")}, {"x": step / 3}, {}, {"v": b"%d" % step})
"""


def committed(folder) -> set[str]:
    return {name for name in os.listdir(folder) if name.startswith("step-")} if folder.exists() else set()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """A process that does nothing but save, killed again and again: it never goes back by more than what is unsaved."""
    draw, reached, folder = random.Random(), 0, tmp_path / "checkpoints"
    for _ in range(10):
        process = run("-c", LOOP, tmp_path)
        deadline, seen = time.monotonic() + 60, committed(folder)
        while committed(folder) <= seen:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.wait()
        found = Checkpoints(str(tmp_path), keep_last=2, on_event=never).latest()
        step = found.step
        assert step > reached and found.state == {"x": step / 3, "step": step}
        assert all(np.all(found.weights[f"w{i}"] == step * 10 + i) for i in range(3)) and len(found.weights) == 3
        assert np.all(found.optimizer["m"] == -step)
        with open(os.path.join(found.path, "tokenizer", "v")) as stream:
            assert stream.read() == str(step)
        reached = step
        best = Checkpoints(str(tmp_path), keep_last=2).best()
        assert step < 5 or (best is not None and best == (step // 5 * 5, 1 / (step // 5 * 5)))
    assert reached >= 10
