"""Saving while training goes on, what stays and what goes, and saves that cannot be made."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.checkpoint_content import CONFIG, TOKENIZER, content, same
from tfgpt.errors import Failure, Interrupted
from tfgpt.training import retention, saver
from tfgpt.training.checkpoints import Checkpoints, load
from tfgpt.training.manifest import Entry, name_of


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Waiting for a disk is slow, and only a power cut would tell the difference; that it is asked for is a test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def events():
    return []


@pytest.fixture
def make(tmp_path, events):
    def made(**keys):
        return Checkpoints(str(tmp_path / "run"), on_event=events.append, **{"keep_last": 3, **keys})

    return made


def names(tmp_path) -> list[str]:
    return sorted(os.listdir(tmp_path / "run" / "checkpoints"))


def test_round_trip_bit_for_bit(make, tmp_path, events):
    checkpoints = make()
    assert checkpoints.latest() is None and checkpoints.steps() == []
    checkpoints.save(7, *content(7), wait=True)
    assert checkpoints.saved == 7
    for found in (checkpoints.latest(), make().latest(), load(str(tmp_path / "run"))):
        assert same(found, 7)
    place = tmp_path / "run" / "checkpoints" / "step-00000007"
    assert found.path == str(place)
    assert {p.name: p.read_bytes() for p in (place / "tokenizer").iterdir()} == TOKENIZER
    (event,) = events
    assert event["event"] == "save" and event["step"] == 7 and event["path"] == str(place)
    assert event["bytes"] == sum(p.stat().st_size for p in place.rglob("*") if p.is_file())


def test_numpy_numbers_and_odd_floats_in_the_state(make):
    state = {"loss": np.float32(0.1), "best": float("inf"), "tiny": 5e-324, "third": 1 / 3, "n": np.int64(2**60)}
    make().save(1, {}, {}, state, {}, None, wait=True)
    found = make().latest().state
    assert found == {"loss": float(np.float32(0.1)), "best": float("inf"), "tiny": 5e-324, "third": 1 / 3, "n": 2**60, "step": 1}  # fmt: skip


def test_what_json_cannot_hold_is_the_callers_error_at_once(make):
    with pytest.raises(TypeError, match="cannot be kept"):
        make().save(1, {}, {}, {"x": object()}, {}, None)


def test_training_goes_on_while_a_save_is_written(make, monkeypatch):
    gate, write = threading.Event(), saver.write
    monkeypatch.setattr(saver, "write", lambda *given: gate.wait(20) and write(*given))
    checkpoints = make()
    checkpoints.save(1, *content(1))
    assert checkpoints.steps() == []  # we are here, and nothing is written yet
    second = threading.Thread(target=checkpoints.save, args=(2, *content(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "the second save waits for the first"
    gate.set()
    second.join(20)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


def test_a_block_that_ends_waits_but_a_second_signal_does_not(make, monkeypatch):
    write = saver.write
    monkeypatch.setattr(saver, "write", lambda *given: time.sleep(0.3) or write(*given))
    with make() as checkpoints:
        checkpoints.save(1, *content(1))
    assert make().steps() == [1]
    with pytest.raises(Interrupted), make() as checkpoints:
        checkpoints.save(2, *content(2))
        raise Interrupted(15)
    assert make().steps() == [1]
    checkpoints.wait()


def test_poll_brings_events_on_the_callers_thread(tmp_path):
    heard = []
    checkpoints = Checkpoints(
        str(tmp_path), keep_last=1, on_event=lambda e: heard.append((e["event"], threading.current_thread()))
    )
    checkpoints.save(1, *content(1))
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        checkpoints.poll()
    assert heard == [("save", threading.main_thread())]


def test_keep_last_best_and_milestones(make, tmp_path):
    checkpoints = make(keep_last=2, milestone_steps=40)
    for step in range(10, 101, 10):
        if step == 30:
            checkpoints.mark_best(30, 1.25)
        checkpoints.save(step, *content(step))
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40, 80, 90, 100]
    again = make()
    assert again.best() == (30, 1.25)
    assert same(load(str(tmp_path / "run"), best=True), 30)


def test_keep_last_one(make, tmp_path):
    checkpoints = make(keep_last=1)
    for step in (1, 2, 3):
        checkpoints.save(step, *content(step), wait=True)
        assert names(tmp_path) == [name_of(step)]


def test_a_better_one_frees_the_best_before(make):
    checkpoints = make(keep_last=1)
    for step, loss in ((1, 3.0), (2, 2.0), (3, None), (4, None)):
        if loss:
            checkpoints.mark_best(step, loss)
            assert checkpoints.best() == (step, loss)
        checkpoints.save(step, *content(step), wait=True)
    assert checkpoints.steps() == [2, 4] and make().best() == (2, 2.0)


@pytest.mark.parametrize("finished", [True, False])
def test_marked_after_the_save_was_begun(make, finished):
    checkpoints = make(keep_last=1)
    checkpoints.save(1, *content(1), wait=finished)
    checkpoints.mark_best(1, 2.5)
    checkpoints.save(2, *content(2))
    checkpoints.save(3, *content(3), wait=True)
    assert make().best() == (1, 2.5) and make().steps() == [1, 3]


def test_the_one_that_was_loaded_can_be_marked(make):
    make().save(1, *content(1), wait=True)
    checkpoints = make(keep_last=1)
    assert same(checkpoints.latest(), 1)
    checkpoints.mark_best(1, 2.5)
    checkpoints.save(2, *content(2))
    checkpoints.save(3, *content(3), wait=True)
    assert make().best() == (1, 2.5) and make().steps() == [1, 3]


def test_a_mark_after_a_rollback_is_not_for_the_step_of_the_past(make, tmp_path):
    checkpoints = make()
    for step in (1, 2):
        checkpoints.save(step, *content(step), wait=True)
    assert checkpoints.latest(at_most=1).step == 1
    checkpoints.mark_best(2, 0.5)  # of the new step 2, which is not saved yet
    assert checkpoints.best() == (2, 0.5) and make().best() is None
    checkpoints.save(2, *content(2, 1), wait=True)
    assert same(load(str(tmp_path / "run"), best=True), 2, 1)


def test_a_mark_of_a_step_that_was_never_saved_leaves_the_one_before(make):
    checkpoints = make(keep_last=1)
    checkpoints.mark_best(1, 2.5)
    checkpoints.save(1, *content(1))
    checkpoints.mark_best(2, 1.5)
    checkpoints.save(3, *content(3), wait=True)
    assert checkpoints.best() == make().best() == (1, 2.5)


def test_a_failed_save_does_not_become_the_best(make, monkeypatch, tmp_path):
    checkpoints = make(keep_last=1)
    checkpoints.mark_best(1, 2.5)
    checkpoints.save(1, *content(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
        checkpoints.mark_best(2, 1.5)
        checkpoints.save(2, *content(2))
        checkpoints.wait()
    assert checkpoints.best() == make().best() == (1, 2.5)
    # The same step, saved after all, does not inherit a mark that was given to something else.
    checkpoints.save(2, *content(2, 1), wait=True)
    assert make().best() == (1, 2.5) and make().steps() == [1, 2]


def test_a_step_saved_again_after_a_rollback_replaces_the_first(make, tmp_path):
    checkpoints = make(keep_last=3)
    for step in (1, 2, 3, 4):
        if step == 4:
            checkpoints.mark_best(4, 1.0)
        checkpoints.save(step, *content(step))
    assert same(checkpoints.latest(at_most=2), 2)
    checkpoints.save(2, *content(2, 1), wait=True)
    # Step 3 is of a past that did not happen; 4 is too, but it is the best there is; and the newest is the new 2.
    assert names(tmp_path) == ["best.json", "step-00000002.2", "step-00000004"]
    assert same(make().latest(), 2, 1)
    checkpoints.save(2, *content(2, 2), wait=True)
    assert same(make().latest(), 2, 2) and names(tmp_path)[1:] == ["step-00000002", "step-00000004"]
    checkpoints.save(4, *content(4, 1), wait=True)
    assert same(make().latest(), 4, 1) and same(load(str(tmp_path / "run"), best=True), 4, 0)


@given(st.data())
def test_retention_against_its_definition(data):
    count = data.draw(st.integers(1, 12))
    steps = data.draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))
    found = [Entry(f"{name_of(step)}.{i}", step, i + 1) for i, step in enumerate(steps)]
    broken = data.draw(st.sets(st.integers(0, count - 1)))
    found = [e if i not in broken or i == count - 1 else e._replace(serial=None, what="x") for i, e in enumerate(found)]
    keep, milestone = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([None, 2, 5]))
    best = data.draw(st.sampled_from([None, *(entry.name for entry in found)]))
    bad = data.draw(st.sets(st.sampled_from([entry.name for entry in found[:-1]] or [""])))
    newest = found[-1]
    gone = retention.superfluous(found, newest, keep_last=keep, milestone_steps=milestone, best=best, bad=bad)

    for entry in found:
        past = [e for e in found if e.serial and e.name not in bad and e.step < newest.step]
        younger = sum(1 for e in past if e.serial > (entry.serial or 0)) + 1  # and the newest itself
        stays = entry == newest or entry.name == best
        stays |= entry in past and (younger < keep or bool(milestone and entry.step % milestone == 0))
        assert (entry not in gone) == stays


def test_leftovers_of_killed_processes_are_swept_and_nothing_else(make, tmp_path):
    make().save(1, *content(1), wait=True)
    folder = tmp_path / "run" / "checkpoints"
    for name in (".step-00000002.tmp-123-abcdef", ".step-00000002.3.tmp-1-0a", ".trash-abcdef-step-00000000"):
        (folder / name).mkdir()
        (folder / name / "weights.safetensors").write_bytes(b"x")
    for name in ("notes", ".hidden", "step-1"):
        (folder / name).mkdir()
    make().clean()
    assert names(tmp_path) == [".hidden", "notes", "step-00000001", "step-1"]
    Checkpoints(str(tmp_path / "none"), keep_last=1).clean()


def log_of(monkeypatch) -> list[tuple[str, str]]:
    """Every call by which the disk's state is changed or made lasting, in order."""
    log = []

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def wrap(name, describe):
        true = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, **k: log.append((name, describe(*a))) or true(*a, **k))

    wrap("fsync", path_of)
    wrap("rename", lambda source, target: f"{source} -> {target}")
    wrap("unlink", str)
    true_open = open

    def opened(path, mode, **k):
        log.append(("open", str(path)))
        return true_open(path, mode, **k)

    monkeypatch.setattr(saver, "open", opened, raising=False)
    return log


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_order_on_the_disk_survives_a_power_cut(make, tmp_path, monkeypatch):
    """A power cut keeps only what was synced: so everything is synced before the rename, and that before a deletion."""
    checkpoints = make(keep_last=1)
    checkpoints.save(1, *content(1), wait=True)
    log = log_of(monkeypatch)
    checkpoints.save(2, *content(2), wait=True)
    folder = str(tmp_path / "run" / "checkpoints")
    (commit,) = [
        i for i, (act, what) in enumerate(log) if act == "rename" and what.endswith(f"-> {folder}/step-00000002")
    ]
    temporary = log[commit][1].split(" -> ")[0]
    opened = [what for act, what in log[:commit] if act == "open"]
    synced = [what for act, what in log[:commit] if act == "fsync"]
    files = [
        f"{temporary}/{name}" for name in ("weights.safetensors", "optimizer.safetensors", "config.json", "state.json")
    ]
    files += [f"{temporary}/tokenizer/{name}" for name in TOKENIZER] + [f"{temporary}/manifest.json"]
    assert opened == files and opened[-1].endswith("manifest.json")
    assert synced == [*files, f"{temporary}/tokenizer", temporary]
    assert log[commit + 1] == ("fsync", folder)
    trashed = [i for i, (act, what) in enumerate(log) if act == "rename" and "/.trash-" in what]
    removed = [i for i, (act, _) in enumerate(log) if act == "unlink"]
    assert len(trashed) == 1 and commit + 1 < trashed[0] < min(removed)


def failing_save(checkpoints, events, step, **keys):
    checkpoints.save(step, *content(step), **keys)
    checkpoints.wait()
    assert events[-1]["event"] == "save_failed" and events[-1]["step"] == step
    return events[-1]


def test_disk_full_by_the_systems_own_limit(make, tmp_path, events):
    """The system refuses to write on in the middle of the weights (EFBIG, as a quota would)."""
    checkpoints = make()
    checkpoints.save(1, *content(1), wait=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        event = failing_save(checkpoints, events, 2)
        with pytest.raises(Failure, match="checkpoint of step 3 could not be written: File too large"):
            checkpoints.save(3, *content(3), wait=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in event["what"] and "MB needed" in event["what"]
    assert event["needed"] > sum(a.nbytes for part in content(2)[:2] for a in part.values()) and event["free"] > 0
    assert names(tmp_path) == ["step-00000001"] and same(checkpoints.latest(), 1)
    checkpoints.save(4, *content(4), wait=True)
    assert same(checkpoints.latest(), 4) and checkpoints.saved == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("after", [0, 1, 3000, 9000])
def test_writing_fails_after_some_bytes(make, tmp_path, events, monkeypatch, number, after):
    checkpoints = make(keep_last=1)
    checkpoints.save(1, *content(1), wait=True)
    left, copy = [after], saver._copy

    def limited(pieces, stream):
        class Full:
            def write(self, piece):
                stream.write(bytes(piece)[: max(0, left[0])])
                left[0] -= len(piece)
                if left[0] < 0:
                    raise OSError(number, os.strerror(number))

        return copy(pieces, Full())

    with monkeypatch.context() as patch:
        patch.setattr(saver, "_copy", limited)
        event = failing_save(checkpoints, events, 2)
    assert os.strerror(number) in event["what"]
    assert names(tmp_path) == ["step-00000001"] and same(make().latest(), 1)
    checkpoints.save(2, *content(2), wait=True)
    assert same(make().latest(), 2)


def test_a_disk_without_room_is_not_filled_first(make, tmp_path, events, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(saver, "write", lambda *_: pytest.fail("nothing should be written"))
    event = failing_save(make(), events, 1)
    assert event["free"] == 5000 and event["what"].startswith("No space left on device")


def test_the_runs_folder_vanishes(make, tmp_path, events):
    checkpoints = make()
    checkpoints.save(1, *content(1), wait=True)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert "the run's folder is gone" in failing_save(checkpoints, events, 2)["what"]
    assert not (tmp_path / "run").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    checkpoints.save(3, *content(3))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3]
    shutil.rmtree(tmp_path / "run")
    checkpoints.save(4, *content(4), wait=True)  # the last save of a run is made all the same
    assert same(make().latest(), 4)


def test_the_checkpoints_folder_alone_vanishes(make, tmp_path):
    checkpoints = make()
    checkpoints.save(1, *content(1), wait=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    checkpoints.save(2, *content(2), wait=True)
    assert same(make().latest(), 2)


def test_a_file_in_the_place_of_the_folder(make, tmp_path, events):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("not a folder")
    assert "File exists" in failing_save(make(), events, 1)["what"]
    with pytest.raises(Failure, match="could not be written"):
        make().save(1, *content(1), wait=True)


def test_an_old_one_that_cannot_be_removed_does_not_fail_the_save(make, events, monkeypatch):
    checkpoints = make(keep_last=1)
    checkpoints.save(1, *content(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            retention, "discard", lambda *_: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied"))
        )
        checkpoints.save(2, *content(2), wait=True)
    assert [e["event"] for e in events] == ["save", "save", "note"] and "step-00000001" in events[-1]["what"]
    checkpoints.save(3, *content(3), wait=True)
    assert checkpoints.steps() == [3], "what could not be removed is removed next time"


def test_a_mistake_of_ours_in_the_thread_is_not_swallowed(make, events, monkeypatch):
    monkeypatch.setattr(saver, "write", lambda *_: 1 // 0)
    assert failing_save(make(), events, 1)["what"].startswith("ZeroDivisionError")
    with pytest.raises(Failure, match="ZeroDivisionError"):
        make().save(1, *content(1), wait=True)


def test_a_tokenizer_file_cannot_climb_out(make, tmp_path):
    with pytest.raises(ValueError, match="leads out"):
        make().save(1, {}, {}, {}, CONFIG, {"../evil": b"x"})
    assert not Path(tmp_path / "run").exists()
