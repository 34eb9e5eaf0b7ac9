"""Reading metrics.jsonl: what a resume or rollback voids, broken lines, numbers that JSON does not know, time shares."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tfgpt import report
from tfgpt.errors import UserError


@pytest.mark.parametrize("seed", range(12))
def test_kills_and_rollbacks_leave_what_the_last_writer_of_each_step_wrote(new_run, seed):
    """A dictionary of steps, from which each resume deletes, is the reference."""
    rnd, run, step = random.Random(seed), new_run(), 0
    losses, evals, written = {}, {}, 0
    run.start()
    for _ in range(60):
        what = rnd.random()
        if what < 0.75:
            new = [rnd.uniform(1, 9) for _ in range(rnd.randint(1, 7))]
            losses.update(zip(range(step + 1, step + len(new) + 1), new, strict=True))
            step, written = step + len(new), written + len(new)
            run.train(step, new)
            if rnd.random() < 0.3:
                evals[step] = rnd.uniform(1, 9)
                run.eval(step, evals[step])
        else:
            back = rnd.randint(0, step)  # in the middle of a line as well
            if what < 0.9:
                run.start(back) if back else run.start()
            else:
                run.line("rollback", step, to=back, why="a jump", skipped=[back, step])
            losses = {s: v for s, v in losses.items() if s <= back}
            evals = {s: v for s, v in evals.items() if s <= back}
            step = back
    history = report.read(str(run.folder))
    assert dict(zip(history.loss.steps.tolist(), history.loss.values.tolist(), strict=True)) == losses
    assert history.loss.steps.tolist() == sorted(losses)
    assert {e.step: e.loss for e in history.evals} == evals
    assert sum(c.steps.size for c in history.abandoned) == written - len(losses)
    for axis in ("tokens", "time"):
        assert (np.diff(history.x(axis, np.arange(step + 1))) >= 0).all(), "no axis runs backwards"
    if losses:
        assert history.x("tokens", np.array([step]))[0] <= 64 * step


def test_broken_lines_are_counted_and_the_half_line_of_a_kill_is_no_harm(new_run):
    run = new_run()
    run.start()
    run.train(2, [5.0, 4.0])
    for bad in (
        "{half\n",
        "[1]\n",
        '{"event": 3, "step": 1}\n',
        '{"event": "train"}\n',
        '{"event": "train", "step": -1}\n',
    ):
        run.raw(bad)
    run.raw('{"event": "train", "step": 1e300}\n' + "[" * 100_000 + "\n\n")
    with open(run.folder / "metrics.jsonl", "ab") as stream:
        stream.write(b'\xff\xfe{"event"\n')
    run.train(4, [3.0, 2.0])
    run.raw('{"event":"train","step":6,"losses":[1.0,')
    history = report.read(str(run.folder))
    assert history.loss.values.tolist() == [5.0, 4.0, 3.0, 2.0] and history.broken == 9


def test_numbers_json_cannot_hold_and_lines_of_a_stranger(new_run):
    run = new_run()
    run.start()
    run.train(3, [5.0, "NaN", "Infinity"], grad_norm="NaN", skipped=2)
    run.train(4, [None])
    run.raw('{"event":"train","step":5,"losses":[NaN],"time":"soon","seconds":[1],"lr":{}}\n')
    run.raw('{"event":"train","step":7,"losses":[[1],"x"],"loss":1}\n{"event":"hello","step":7}\n')
    run.line("eval", 7, loss="NaN", perplexity="Infinity")
    history = report.read(str(run.folder))
    assert history.loss.steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert history.loss.values[0] == 5.0 and np.isnan(history.loss.values[1:]).all()
    assert history.best_eval is None and math.isnan(history.evals[0].perplexity)
    assert [(e.kind, e.step) for e in history.events] == [
        ("nonfinite", 2), ("skipped", 3), ("nonfinite", 4), ("nonfinite", 5), ("nonfinite", 6),
    ]  # fmt: skip


def test_wall_time_is_shared_out_and_adds_up(new_run):
    run = new_run()
    run.start()
    run.train(10, [3.0] * 10, seconds={"step": 8.0, "data": 1.0, "compile": 30.0})
    run.eval(10, 3.0, seconds=4.0)  # which the next train line counts
    run.train(20, [3.0] * 10, seconds={"step": 8.0, "data": 1.0, "eval": 4.0})
    run.clock += 1000  # the machine is off
    run.start(10)
    run.train(20, [3.0] * 10, seconds={"step": 9.0, "data": 1.0, "save": 2.0})
    run.line("eval", 20, after=5.0, loss=2.0, seconds=5.0)
    run.line("stop", 20, after=1.0, why="done")
    history = report.read(str(run.folder))
    shares = {part: round(seconds, 6) for part, seconds in history.shares.items() if seconds}
    # The void line held 9 s of steps and data, and the 4 s of an evaluation that stands.
    assert shares == {
        "step": 17.0, "data": 2.0, "compile": 30.0, "save": 2.0, "eval": 9.0, "lost": 9.0, "other": 1.0,
    }  # fmt: skip
    assert sum(shares.values()) == 39 + 13 + 12 + 5 + 1
    assert history.stop.text == "done" and len(history.sessions) == 2
    assert "10 steps are done again" in history.events[0].text


def test_a_run_that_goes_on_after_its_stop_is_unfinished(new_run):
    run = new_run()
    run.start()
    run.train(1, [3.0])
    run.line("stop", 1, why="signal 15")
    assert report.read(str(run.folder)).stop.text == "signal 15"
    run.line("fallback", 1, after=500, path="step_1", what="damaged")
    run.start(1)
    history = report.read(str(run.folder))
    assert history.stop is None and sum(history.shares.values()) < 10, "the hours between two sessions are nobody's"


def test_a_folder_without_a_run_names_the_runs_inside(new_run, tmp_path):
    run = new_run("inside")
    run.start()
    with pytest.raises(UserError, match="no training run is here") as caught:
        report.read(str(tmp_path))
    assert caught.value.nearest == str(run.folder)
    with pytest.raises(UserError):
        report.read(str(tmp_path / "nowhere"))
    assert report.read(str(run.folder / "metrics.jsonl")).config["n_embd"] == 64


def test_a_run_in_a_bucket(new_run, bucket):
    from tfgpt import files

    run = new_run()
    run.start()
    run.train(1, [3.0])
    files.copy_in(run.folder / "metrics.jsonl", f"{bucket}/runs/mine/metrics.jsonl")
    assert report.read(f"{bucket}/runs/mine").loss.values.tolist() == [3.0]
    report.write([f"{bucket}/runs/mine"], f"{bucket}/runs/mine/report.html")
    assert b"<title>mine" in files.read_bytes(f"{bucket}/runs/mine/report.html")
    with pytest.raises(UserError, match="no training run"):
        report.read(f"{bucket}/runs")
