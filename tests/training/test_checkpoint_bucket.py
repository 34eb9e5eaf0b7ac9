"""Checkpoints in a bucket, where nothing can be renamed: the manifest comes last, and goes first."""

from __future__ import annotations

import pytest

from tests.training.checkpoint_content import content, same
from tfgpt import buckets, files
from tfgpt.errors import Failure
from tfgpt.training.checkpoints import Checkpoints, load, verify


def objects(folder: str) -> list[str]:
    return [path[len(folder) + 1 :] for path, _ in files.walk(folder)]


def test_save_keep_and_load(bucket):
    run = f"{bucket}/models/one"
    checkpoints = Checkpoints(run, keep_last=1)
    assert checkpoints.latest() is None and checkpoints.best() is None
    for step in (1, 2, 3):
        if step == 1:
            checkpoints.mark_best(1, 2.0)
        checkpoints.save(step, *content(step), wait=True)
    again = Checkpoints(run, keep_last=1)
    assert again.steps() == [1, 3] and again.best() == (1, 2.0)
    assert same(again.latest(), 3) and same(load(run), 3) and same(load(run, best=True), 1)
    assert same(load(f"{run}/checkpoints/step-00000003"), 3)
    assert [report.good for report in verify(run)] == [True, True]
    checkpoints.save(3, *content(3, 1), wait=True)
    assert same(again.latest(), 3, 1)
    assert {name.split("/")[0] for name in objects(f"{run}/checkpoints")} == {"best.json", "step-00000001", "step-00000003.2"}  # fmt: skip


def test_stopped_after_every_object(bucket, monkeypatch):
    """Whatever number of requests came through, the old state or the new one is there, and the next start sweeps."""
    run, k, news = f"{bucket}/run", 0, []

    class Cut(BaseException):
        pass

    while not news or not news[-1] or k < 0:
        for path, _ in list(files.walk(bucket)):
            files.remove(path)
        Checkpoints(run, keep_last=1).save(1, *content(1), wait=True)
        left = [k]

        def point(act, left=left):
            def counted(*given, **keys):
                if not left[0]:
                    raise Cut
                left[0] -= 1
                return act(*given, **keys)

            return counted

        checkpoints = Checkpoints(run, keep_last=1)
        with monkeypatch.context() as patch:
            patch.setattr(buckets, "writer", point(buckets.writer))
            patch.setattr(buckets, "remove", point(buckets.remove))
            # The thread dies of it without a word, as a process would; the cleaning up behind it is cut as well.
            patch.setattr("threading.excepthook", lambda given: None)
            checkpoints.save(2, *content(2))
            checkpoints.wait()
        found = Checkpoints(run, keep_last=1, on_event=lambda event: pytest.fail(str(event))).latest()
        assert same(found, 1) or same(found, 2)
        Checkpoints(run, keep_last=1).clean()
        assert all(report.good for report in verify(run))
        whole = {f"step-{step:08}" for step in Checkpoints(run, keep_last=1).steps()}
        assert {name.split("/")[0] for name in objects(f"{run}/checkpoints")} == whole
        news.append(left[0] > 0)
        if not news[-1]:
            assert k < 40
        k += 1
    assert k > 12


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_passed_over(bucket, name):
    run, events = f"{bucket}/run", []
    checkpoints = Checkpoints(run, keep_last=2, on_event=events.append)
    for step in (1, 2):
        checkpoints.save(step, *content(step), wait=True)
    path = f"{run}/checkpoints/step-00000002/{name}"
    files.write_bytes(path, files.read_bytes(path)[:-1])
    events.clear()
    assert same(checkpoints.latest(), 1)
    assert [(event["event"], event["step"]) for event in events] == [("fallback", 2)] and name in events[0]["what"]


def test_a_bucket_that_refuses_does_not_stop_training(bucket, monkeypatch):
    events = []
    checkpoints = Checkpoints(f"{bucket}/run", keep_last=1, on_event=events.append)
    checkpoints.save(1, *content(1), wait=True)
    true = files.atomic_writer

    def refuse(path, *given, **keys):
        if str(path).endswith("state.json"):
            raise Failure("the bucket refuses: quota")
        return true(path, *given, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_writer", refuse)
        checkpoints.save(2, *content(2))
        checkpoints.wait()
    assert events[-1]["event"] == "save_failed" and "quota" in events[-1]["what"] and events[-1]["free"] is None
    assert {name.split("/")[0] for name in objects(f"{bucket}/run/checkpoints")} == {"step-00000001"}
    checkpoints.save(3, *content(3), wait=True)
    assert same(checkpoints.latest(), 3)
