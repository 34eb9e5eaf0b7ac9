"""Going on: after damage to the newest checkpoint, with a full disk, and when there is nothing left to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.training import small
from tfgpt.errors import Failure
from tfgpt.training import manifest, saver, starting

KEYS = {"max_steps": 12, "train_steps": 6, "save_steps": 3, **small.DROPOUT}


@pytest.fixture(scope="module")
def halted(data, tmp_path_factory):
    """A run that was stopped at step 9 of 12, and the same run that went straight on."""
    from tfgpt.estimator import Estimator

    folder = tmp_path_factory.mktemp("halted")
    config = small.config(data_path=str(data), model_path=str(folder / "run"), **KEYS)
    estimator = Estimator(config, say=lambda text: None)
    estimator.train(9)
    shutil.copytree(folder / "run", folder / "at 9")
    estimator.train()
    return estimator, folder / "at 9", folder / "run"


def move(estimator, run: Path, monkeypatch) -> None:
    """Let the estimator, which need not be traced anew for that, work in another folder as if it had just been made."""
    monkeypatch.setattr(estimator, "config", estimator.config.model_copy(update={"model_path": str(run)}))
    monkeypatch.setattr(estimator, "say", lambda text: None)
    starting.from_nothing(estimator.config, estimator.step)


def truncate(checkpoint: Path) -> None:
    path = checkpoint / manifest.OPTIMIZER
    path.write_bytes(path.read_bytes()[:-100])


def flip(checkpoint: Path) -> None:
    path = checkpoint / manifest.WEIGHTS
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete(checkpoint: Path) -> None:
    (checkpoint / manifest.STATE).unlink()


def empty(checkpoint: Path) -> None:
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, delete, empty], ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(halted, damage, tmp_path, capsys, monkeypatch):
    estimator, stopped, straight = halted
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    damage(run / "checkpoints" / "step-00000009")
    move(estimator, run, monkeypatch)
    said = []
    monkeypatch.setattr(estimator, "say", said.append)
    estimator.train_and_evaluate()
    assert "going on from step 6 of 12" in said
    fallback = small.events(run, "fallback")
    assert [line["step"] for line in fallback] == [9] and "step-00000009" in fallback[0]["path"]
    out = capsys.readouterr().out
    assert "fallback at step 9" in out and fallback[0]["what"] in out
    assert small.losses(run) == small.losses(straight) and len(small.losses(run)) == 12
    small.bit_equal(small.last(run), small.last(straight))
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert len(names) == 4, f"the damaged one has given way to a good one: {names}"


def test_a_full_disk_ends_no_run_and_harms_no_checkpoint(halted, tmp_path, capsys, monkeypatch):
    """The disk is full from step 3 to 8: told with its name; the old checkpoint stands; later saves succeed."""
    estimator, _, straight = halted
    run, true, states = tmp_path / "run", saver._write_file, []

    def write_file(path, pieces):
        if any(f"step-{step:08}" in path for step in (6, 9)) and path.endswith(manifest.OPTIMIZER):
            states.append(small.last(run).step)
            with open(path, "wb") as stream:
                stream.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return true(path, pieces)

    monkeypatch.setattr(saver, "_write_file", write_file)
    move(estimator, run, monkeypatch)
    estimator.train_and_evaluate()
    failed = small.events(run, "save_failed")
    assert [line["step"] for line in failed] == [6, 9] and all("No space left" in line["what"] for line in failed)
    assert "save failed at step 6: No space left on device" in capsys.readouterr().out
    assert states == [3, 3], "the old checkpoint was whole all the time"
    assert small.losses(run) == small.losses(straight)
    small.bit_equal(small.last(run), small.last(straight))


def test_a_full_disk_at_the_end_is_an_error_and_the_same_command_ends_it(halted, tmp_path, monkeypatch):
    """Also where the last save began as that of the best evaluation, in the background."""
    estimator, _, straight = halted
    run, true = tmp_path / "run", saver.write

    def write(folder, name, *rest):
        if "12" in name:
            raise OSError(errno.ENOSPC, "No space left on device", folder)
        return true(folder, name, *rest)

    monkeypatch.setattr(saver, "write", write)
    move(estimator, run, monkeypatch)
    with pytest.raises(Failure, match="No space left"):
        estimator.train_and_evaluate()
    assert small.last(run).step == 9
    monkeypatch.setattr(saver, "write", true)
    estimator.train_and_evaluate()
    small.bit_equal(small.last(run), small.last(straight))


def test_a_complete_run_says_so_and_changes_nothing(halted, monkeypatch):
    estimator, _, straight = halted
    said, before = [], small.last(straight)
    monkeypatch.setattr(estimator, "say", said.append)
    assert estimator.train_and_evaluate() is None
    assert any("complete: step 12 of 12" in text for text in said)
    small.bit_equal(before, small.last(straight))


def test_max_steps_is_exact_and_each_save_is_where_it_should_be(halted):
    _, _, straight = halted
    assert small.last(straight).step == 12 and max(small.losses(straight)) == 12
    assert sorted(small.evals(straight)) == [6, 9, 12], "every 6 steps, and where it was told to stop"
    assert [line["step"] for line in small.events(straight, "save")] == [3, 6, 9, 12]


def test_speed_is_counted_without_the_step_that_compiled(halted):
    """Tokens of the other steps over the seconds of steps and data; a line of that step alone states no speed."""
    *_, straight = halted
    for line in small.events(straight, "train"):
        compiled, busy = line["seconds"]["compile"] > 0, line["seconds"]["step"] + line["seconds"]["data"]
        counted = 8 * 16 * (len(line["losses"]) - compiled)
        assert (line["tokens_per_second"] is None) == (counted == 0)
        if counted:
            assert line["tokens_per_second"] == pytest.approx(counted / busy, rel=0.01)
            assert line["flops_per_second"] == pytest.approx(counted / busy * 6 * 20_000, rel=0.5)
