"""A run that is killed with -9 again and again ends with the same bits as one that never was.

Five kills by default; `TFGPT_KILLS=20 pytest tests/training/test_kill.py` makes twenty.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.training import small
from tfgpt import report
from tfgpt.training.checkpoints import Checkpoints

KILLS = int(os.environ.get("TFGPT_KILLS", "5"))
STEPS = max(60, 10 * KILLS)  # room between two kills for a few saves
# Dropout and noise are on, so that all randomness is there; a save at every second step, so that many kills fall into one.
KEYS = {"max_steps": STEPS, "train_steps": 20, "save_steps": 2, "keep_last": 2, "noise": 0.1, **small.DROPOUT}


@pytest.mark.slow
def test_killed_at_random_moments_equals_straight(start, tmp_path):
    straight, killed, draw = tmp_path / "straight", tmp_path / "killed", random.Random()
    whole, in_saves = start("straight", **KEYS), 0
    for number in range(KILLS):
        # Slow enough to be caught; each kill comes somewhere in its own part of the way, after that much was seen.
        process = start("killed", slow={"train": 0.03, "save": 0.15 * (number % 2)}, **KEYS)
        process.until(lambda number=number: sessions(killed) == number + 1)
        goal = max(reached(killed), (STEPS - 4) * number // KILLS) + draw.randint(1, 3)
        process.until(lambda goal=goal: reached(killed) >= min(goal, STEPS - 3))
        if number % 2:
            process.until(lambda: unfinished(killed))
        else:
            time.sleep(draw.uniform(0, 0.04))
        process.signal(9)
        assert process.wait() == -9
        in_saves += unfinished(killed)
        if found := Checkpoints(str(killed), keep_last=2, on_event=never).latest():
            assert reached(killed) - 6 <= found.step < STEPS, "no more is lost than what was on its way"
    end = start("killed", **KEYS)
    assert end.wait() == 0 and whole.wait() == 0, end.err + whole.err
    small.bit_equal(small.last(straight), small.last(killed))
    losses = small.losses(straight)
    assert list(losses) == list(range(1, STEPS + 1)) and small.losses(killed) == losses
    assert small.evals(killed) == small.evals(straight) and len(small.evals(killed)) == STEPS // 20
    assert Checkpoints(str(killed), keep_last=2).best() == Checkpoints(str(straight), keep_last=2).best() is not None
    # The report, which has a reader of its own, sees the same series.
    told = report.read(str(killed))
    assert dict(zip(told.loss.steps.tolist(), told.loss.values.tolist(), strict=True)) == losses
    assert len(told.sessions) == KILLS + 1 and in_saves > 0


def never(event) -> None:
    assert event["event"] == "save", event


def reached(run) -> int:
    """The last step that the metrics tell of."""
    return max((line["step"] for line in small.lines(run)), default=0)


def sessions(run) -> int:
    """How often a process has begun to train here."""
    return sum(line["event"] in ("start", "resume") for line in small.lines(run))


def unfinished(run) -> bool:
    """Whether a checkpoint lies there half written."""
    return any((run / "checkpoints").glob(".step-*"))
