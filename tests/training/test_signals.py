"""SIGTERM and SIGINT: the run saves once and leaves with 143 or 130, wherever it is caught; the second one ends it at once."""

from __future__ import annotations

import signal

import pytest

from tests.training import small
from tfgpt.training.checkpoints import verify

KEYS = {"max_steps": 60, "train_steps": 10, "save_steps": 1000, "keep_last": 3}


def lines(run, kind):
    return small.events(run, kind)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_once_and_the_same_command_goes_on(start, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(slow={"train": 0.05}, **KEYS)
    process.until(lambda: len(lines(run, "eval")) == 1 and lines(run, "train")[-1]["step"] > 12)
    process.signal(number)
    assert process.wait() == code
    step = small.last(run).step
    assert [line["step"] for line in lines(run, "save")] == [10, step], "the best one, and the one that was asked for"
    assert lines(run, "stop")[-1]["why"] == f"signal {int(number)}" and lines(run, "stop")[-1]["step"] == step
    assert f"(step {step})" in process.err and "the same command goes on" in process.err
    assert "Traceback" not in process.err
    if number == signal.SIGTERM:
        again = start(**KEYS)
        assert again.wait() == 0, again.err
        assert f"going on from step {step} of 60" in again.out and list(small.losses(run)) == list(range(1, 61))


def test_a_signal_while_it_compiles_evaluates_and_saves(start, tmp_path):
    """Three processes that are each slow in one place; each finishes what it does, saves, and leaves."""
    places = {"compile": {"train": 1.0}, "eval": {"evaluate": 1.0}, "save": {"save": 1.5}}
    seen = {
        "compile": lambda run: lines(run, "start"),
        "eval": lambda run: any(line["step"] == 10 for line in lines(run, "train")),
        "save": lambda run: any((run / "checkpoints").glob("*")) or (run / "checkpoints").exists(),
    }
    processes = {name: start(name, slow=slow, **KEYS) for name, slow in places.items()}
    for name, process in processes.items():
        process.until(lambda name=name: seen[name](tmp_path / name))
        process.signal(signal.SIGTERM)
    for name, process in processes.items():
        run = tmp_path / name
        assert process.wait() == 143, (name, process.err)
        step = small.last(run).step
        assert lines(run, "stop")[-1]["step"] == step and all(report.good for report in verify(str(run))), name
        # The one that saves goes on training meanwhile, as fast as the machine lets it.
        assert step <= {"compile": 1, "eval": 12, "save": 59}[name] and list(small.losses(run)) == list(
            range(1, step + 1)
        ), name


def test_a_second_signal_ends_it_at_once(start, tmp_path):
    """While the first one's save takes its time: nothing half written counts, and nothing waits."""
    run = tmp_path / "run"
    process = start(slow={"save": 20.0}, eval_steps=0, **KEYS | {"max_steps": 100_000})
    process.until(lambda: lines(run, "train") and lines(run, "train")[-1]["step"] > 3)
    process.signal(signal.SIGTERM)
    process.until(lambda: (run / "checkpoints").is_dir())
    process.signal(signal.SIGTERM)
    import time

    started = time.monotonic()
    assert process.wait() in (143, -signal.SIGTERM), "the system ends it, which a shell shows as 143 as well"
    assert time.monotonic() - started < 10
    assert not lines(run, "stop") and not any((run / "checkpoints").glob("step-*"))


def test_a_second_run_in_the_folder_is_refused_and_a_dead_ones_lock_is_not(start, tmp_path):
    first = start(slow={"train": 0.1}, **KEYS | {"max_steps": 100_000})
    first.until(lambda: lines(tmp_path / "run", "train"))
    second = start(**KEYS)
    assert second.wait() == 2 and f"already running in this folder, by process {first.pid}" in second.err
    first.signal(signal.SIGKILL)
    assert first.wait() == -9 and (tmp_path / "run" / "run.lock").exists()
    third = start(**KEYS | {"max_steps": 5})
    assert third.wait() == 0, third.err
