"""The guard: what it sees in a series of losses, and what a run does about it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training import small
from tfgpt.data.inputs import open_inputs
from tfgpt.signals import StopRequest
from tfgpt.training import guard, snapshot, starting
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.guard import Diverged, Guard
from tfgpt.training.loop import Loop
from tfgpt.training.metrics import Metrics
from tfgpt.training.run_state import RunState

MAX = 40


def falling(count: int, *, noise: float = 0.05, seed: int = 0) -> list[float]:
    """A loss as training has it: from 9 towards 3, with noise."""
    draw = np.random.default_rng(seed)
    return [3 + 6 * math.exp(-step / 30) + noise * draw.normal() for step in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_an_ordinary_run_is_left_alone(seed):
    watch = Guard()
    assert not any(watch.look(loss, True) for loss in falling(2000, noise=0.2, seed=seed))


def test_a_leap_is_seen_at_its_third_loss_and_one_odd_batch_is_not():
    watch = Guard()
    for loss in falling(200):
        assert not watch.look(loss, True)
    assert not watch.look(30.0, True) and not watch.look(3.0, True) and not watch.high
    assert [bool(watch.look(30.0, True)) for _ in range(3)] == [False, False, True]
    assert watch.mean < 4, "what is too high is not learnt from"


def test_a_loss_that_is_not_finite_is_seen_at_once_and_refused_updates_after_fifty():
    assert "nan" in Guard().look(math.nan, False) and "inf" in Guard().look(math.inf, False)
    watch = Guard()
    found = [watch.look(3.0, False) for _ in range(guard.REFUSED)]
    assert not any(found[:-1]) and "50 gradients" in found[-1]
    assert not watch.look(3.0, True) and watch.refused == 0


@pytest.fixture(scope="module")
def machine(data):
    """One step, whose losses can be poisoned by data, for all runs of this file."""
    config = small.config(data_path=str(data))
    step = small.step_of(config, small.place(tf.distribute.get_strategy()))
    small.poison(step)
    small.multiply_losses(step, lambda ids: tf.where(tf.reduce_any(ids == small.POISON + 1), 10.0, 1.0))
    return step, open_inputs(config)


class Poisoned:
    """Batches with a bad id at some positions, which also notes the positions it was asked for."""

    def __init__(self, batches, at: dict[int, int]) -> None:
        self.batches, self.at = batches, at

    def stack(self, first, count, *, rows=None):
        batch = self.batches.stack(first, count, rows=rows)
        for i in range(count):
            if first + i in self.at:
                batch.ids[i, 5, 7] = self.at[first + i]
        return batch


@pytest.fixture
def train(machine, tmp_path):
    """Trains from nothing or on, over data that is poisoned at `at`; returns what the guard raised, if it did."""
    step, inputs = machine

    def train(at=(), *, leap=(), calls=None, until=MAX, said=None, **keys):
        config = small.config(data_path=step.config.data_path, model_path=str(tmp_path), max_steps=MAX, **keys)
        bad = Poisoned(inputs.train, {**dict.fromkeys(at, small.POISON), **dict.fromkeys(leap, small.POISON + 1)})
        own = type(inputs)(**{**vars(inputs), "train": bad, "eval": None})
        starting.from_nothing(config, step)
        with Metrics(str(tmp_path), tensorboard=False) as metrics:
            kept = Checkpoints(str(tmp_path), keep_last=5)
            state, _ = starting.begin(config, step, own, kept=kept)
            metrics.write("resume" if state.step else "start", state.step)
            loop = Loop(config, step, own, state, kept, metrics)
            if said is not None:
                loop.say = said.append
            if calls:
                loop._count = lambda until: min(next(calls), 5 - loop.state.step % 5, until - loop.state.step)
            try:
                with StopRequest("") as stop, kept:
                    loop.run(until, stop)
            except Diverged as error:
                return error
        return None

    train.folder, train.step, train.inputs = tmp_path, step, inputs
    return train


def expected(train, positions) -> list[float]:
    """Losses of a run over exactly these data positions, without any loop."""
    config = small.config(max_steps=MAX)
    starting.from_nothing(config, train.step)
    return [
        float(train.step.train(*train.inputs.train.stack(position, 1), first=step).losses[0])
        for step, position in enumerate(positions)
    ]


def test_nan_rolls_back_once_and_goes_on_behind_that_data(train):
    """The losses that stand are those of a run that was never given the window; the second NaN ends it with exit 3."""
    said = []
    error = train(at=[17, 35], said=said)
    rollback = small.events(train.folder, "rollback")
    # The NaN came of position 17 as update 18; the save before was at step 15.
    assert [(r["step"], r["to"], r["skipped"]) for r in rollback] == [(18, 15, [15, 17])]
    assert "nan" in rollback[0]["why"] and any("step 18" in text and "15 to 17" in text for text in said)
    assert error.exit_code == 3 and "second time" in str(error) and "lr=" in str(error)
    stop = small.events(train.folder, "stop")
    assert len(stop) == 1 and stop[0]["why"].startswith("guard: step 33") and stop[0]["step"] == 33
    losses = small.losses(train.folder)
    assert list(losses) == list(range(1, 34)) and losses.pop(33) == "NaN"
    positions = [*range(15), *range(18, 35)]
    assert list(losses.values()) == expected(train, positions)
    assert small.last(train.folder).state["skips"] == [[15, 3]]


def test_where_it_turns_back_does_not_depend_on_the_calls(train):
    """Calls of any length, as the clock makes them: the same window is left out."""
    draw = np.random.default_rng(7)
    train(at=[22], calls=iter(lambda: int(draw.integers(1, 6)), None))
    assert [(r["step"], r["to"], r["skipped"]) for r in small.events(train.folder, "rollback")] == [(23, 20, [20, 22])]
    assert list(small.losses(train.folder).values()) == expected(train, [*range(20), *range(23, 43)])


def test_nan_before_the_first_save_begins_anew_behind_it(train):
    train(at=[2], until=5)
    assert [(r["to"], r["skipped"]) for r in small.events(train.folder, "rollback")] == [(0, [0, 2])]
    assert list(small.losses(train.folder).values()) == expected(train, range(3, 8))


def test_a_rolled_back_run_resumes_with_its_window_left_out(train):
    train(at=[17], until=26)
    train(at=[17])
    assert len(small.events(train.folder, "rollback")) == 1
    assert list(small.losses(train.folder).values()) == expected(train, [*range(15), *range(18, 43)])


def test_a_leap_rolls_back_to_before_it_began(train, monkeypatch):
    """Ten times the loss from position 18 on, seen at its third loss; nothing is saved inside the leap."""
    monkeypatch.setattr(guard, "WARM", 10)
    assert train(leap=range(18, 22)) is None
    rollback = small.events(train.folder, "rollback")
    assert [(r["step"], r["to"], r["skipped"]) for r in rollback] == [(21, 15, [15, 20])]
    assert "leapt" in rollback[0]["why"]
    losses = list(small.losses(train.folder).values())
    assert len(losses) == MAX and losses[15] > 10 * losses[14] * 0.8, "position 21 is odd too, but alone"
    assert max(losses[16:]) < losses[0]


def test_guard_stop_ends_at_the_first_nan(train):
    error = train(at=[17], guard="stop")
    assert error.exit_code == 3 and "second" not in str(error)
    assert not small.events(train.folder, "rollback") and small.last(train.folder).step == 15


def test_guard_off_goes_on_without_the_bad_update(train):
    assert train(at=[17], guard="off") is None
    losses = small.losses(train.folder)
    assert len(losses) == MAX and [step for step, loss in losses.items() if loss == "NaN"] == [18]
    assert sum(line["skipped"] for line in small.events(train.folder, "train")) == 1
    last = small.last(train.folder)
    assert last.step == MAX and all(np.isfinite(value).all() for value in last.weights.values())


def test_the_end_is_saved_even_if_the_last_updates_were_refused(train, monkeypatch):
    """Otherwise a run would repeat its last steps for ever and never be complete."""
    true = Guard.look

    def look(self, loss, applied):
        return true(self, loss, applied and self.seen < MAX - 1)

    monkeypatch.setattr(Guard, "look", look)
    assert train() is None
    assert small.last(train.folder).step == MAX and small.last(train.folder).state["guard"]["refused"] == 1


def test_from_nothing_is_the_beginning(train):
    first = expected(train, range(3))
    assert first == expected(train, range(3))
    assert snapshot.first_optimizer(train.step).keys() == train.step.variables().keys()
    assert RunState().guard == Guard()
