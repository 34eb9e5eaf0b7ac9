"""The checkpoints of a run: saved while training goes on, whole or not there at all, and never lost to a bad one.

Order on the disk, for every save: files, their fsync, the manifest, rename, and only then the removal of what is no
longer needed. A process may be killed between any two of these; `latest` then finds the old state or the new one.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.errors import Failure, Interrupted
from tfgpt.training import manifest, marks, restoring, retention, saver
from tfgpt.training.manifest import Damaged, Entry, Unreadable
from tfgpt.training.marks import Mark
from tfgpt.training.restoring import Checkpoint, load
from tfgpt.training.saver import words
from tfgpt.training.verification import Report, verify

__all__ = ["Checkpoint", "Checkpoints", "Report", "load", "verify"]


@dataclass
class _Job:
    """One save on its way."""

    what: saver.Content
    final: bool
    loss: float | None = None  # of the mark that this save is to carry
    thread: threading.Thread | None = None
    error: Exception | None = None
    ended: bool = False


class Checkpoints:
    """Saves, keeps and finds the checkpoints of the run in the folder `run` (local or gs://); its lock is the caller's.

    Events (see metrics.jsonl) go to `on_event`, always on the thread that calls a method here; `poll` between two steps
    brings them soon. A save of a step already in `saved` can be left out. As a context it ends with `wait`, unless a second signal wants it to end at once.

    >>> with Checkpoints("models/my_model", keep_last=5, on_event=print) as checkpoints:     # doctest: +SKIP
    ...     checkpoints.clean()
    ...     start = checkpoints.latest()
    ...     checkpoints.save(100, weights, optimizer, {"elapsed": 61.5}, config, None)
    """

    def __init__(
        self,
        run: str,
        *,
        keep_last: int,
        milestone_steps: int | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        assert keep_last >= 1
        self.run = files.text_of(run)
        self.folder = files.join(self.run, "checkpoints")
        self.saved: int | None = None  # step of the last save that this object brought to its end
        self._keep_last, self._milestone_steps = keep_last, milestone_steps
        self._on_event = on_event or _say
        self._events: deque[dict[str, Any]] = deque()
        self._job: _Job | None = None
        self._bad: set[str] = set()
        self._current: str | None = None  # name of the checkpoint saved or loaded last
        self._was_there = False
        self._lock = threading.Lock()  # over the marks, which the saving thread writes as well
        self._pending: tuple[int, float] | None = None  # marked, and its save has not been begun
        self._marks: list[Mark] = []
        self._best: Mark | None = None  # the mark among them whose checkpoint stands
        self._marks_read = False

    def clean(self) -> None:
        """Remove what a killed process left half done. Call it at the start of a run, with the run's lock held."""
        self.wait()
        retention.sweep(self.folder)

    def save(
        self,
        step: int,
        weights: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
        state: Mapping[str, Any],
        config: Mapping[str, Any],
        tokenizer_files: Mapping[str, bytes] | None,
        *,
        wait: bool = False,
    ) -> None:
        """Begin to write the state after `step` updates; the arrays must not change any more. Waits for the save before.

        With `wait`, return when it is on the disk, and raise Failure if it cannot be written. Without, a failed save is
        an event, and training goes on. A step that exists already, after a rollback, is replaced once the new one is safe.
        """
        self.wait()
        what = saver.content(step, weights, optimizer, state=state, config=config, tokenizer_files=tokenizer_files)
        with self._lock:
            loss = self._pending[1] if self._pending and self._pending[0] == step else None
            self._pending, job = None, _Job(what, wait, loss)
            self._job = job
        # A daemon: what a second signal cuts short is a hidden folder, which the next start removes.
        job.thread = threading.Thread(target=self._work, args=(job,), name="checkpoint", daemon=True)
        job.thread.start()
        if wait:
            self.wait()
            if job.error is not None:
                raise Failure(
                    f"the checkpoint of step {step} could not be written: {words(job.error)}",
                    where=self.folder,
                    fix="make room, or the folder writable, and run the same command again: it goes on from the checkpoint before",
                ) from job.error

    def wait(self) -> None:
        """Return when no save is on its way; what happened to it is told as an event, never raised."""
        if self._job is not None and self._job.thread is not None:
            self._job.thread.join()
        self.poll()

    def poll(self) -> None:
        """Tell what the saving thread has to say; costs nothing."""
        while self._events:
            self._on_event(self._events.popleft())

    def latest(self, *, at_most: int | None = None) -> Checkpoint | None:
        """The newest good checkpoint (not beyond step `at_most`), every byte checked; None where none was ever saved.

        A bad one is passed over with a "fallback" event, and removed after the next save. If none is good: Failure.
        """
        self.wait()

        def passed_over(entry: Entry, error: Damaged) -> None:
            if not isinstance(error, Unreadable):
                self._bad.add(entry.name)
            path = files.join(self.folder, entry.name)
            self._on_event({"event": "fallback", "step": entry.step, "path": path, "what": str(error)})

        found = restoring.newest(self.folder, passed_over=passed_over, at_most=at_most)
        self._current = manifest.base_name(found.path) if found else None
        return found

    def steps(self) -> list[int]:
        """Steps of which a checkpoint stands, ascending; their content is not checked."""
        return sorted({entry.step for entry in manifest.entries(self.folder) if entry.serial is not None})

    def mark_best(self, step: int, loss: float) -> None:
        """Call the checkpoint of `step` the best one so far: it is kept until another is marked.

        Call it before `save(step, …)`: the mark then stands or falls with that checkpoint, whenever the process dies.
        The step saved or loaded last can be marked too; a mark for any other step is forgotten.
        """
        with self._lock:
            if self._job is not None and self._job.what.step == step and not self._job.ended:
                self._job.loss = loss
                return
            # Whether a save of this step is still to come is not known; if it does, the mark goes over to that one.
            self._pending = (step, loss)
            try:
                # After a rollback, another checkpoint of this step may lie there: only the one we stand on is meant.
                here = [
                    e for e in manifest.entries(self.folder) if (e.name, e.step) == (self._current, step) and e.serial
                ]
                if here:
                    self._record(loss, here[-1])
                    self._best = self._marks[0] if self._marks else None
            except (OSError, Failure) as error:
                self._note(step, f"the best checkpoint could not be marked: {words(error)}")
        self.poll()

    def best(self) -> tuple[int, float] | None:
        """Step and loss of the checkpoint marked last, of those that stand or are on their way."""
        with self._lock:
            if self._pending is not None:
                return self._pending
            if self._job is not None and self._job.loss is not None and not self._job.ended:
                return self._job.what.step, self._job.loss
            self._load_marks()
            return None if self._best is None else (self._best.step, self._best.loss)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)):
            self.poll()
        else:
            self.wait()

    def _work(self, job: _Job) -> None:
        """The saving thread: write, mark, and then remove what is no longer needed."""
        started, step = time.monotonic(), job.what.step
        try:
            self._require_folder(final=job.final)
            found = manifest.entries(self.folder)
            with self._lock:
                self._load_marks()
                serials = [entry.serial or 0 for entry in found] + [mark.serial for mark in self._marks]
                entry = Entry(_free_name(step, found), step, 1 + max(serials, default=0))
                # Before the checkpoint is there: a mark whose checkpoint never comes does no harm.
                self._record_mark(job, entry)
            saver.require_room(self.folder, job.what)
            size = saver.write(self.folder, entry.name, entry.serial or 1, job.what)
        except Exception as error:
            job.error = error
            self._events.append(saver.failed(self.folder, job.what, error))
            with self._lock:
                job.ended = True
            return
        self.saved, self._current, seconds = step, entry.name, time.monotonic() - started
        path = files.join(self.folder, entry.name)
        self._events.append({"event": "save", "step": step, "path": path, "seconds": seconds, "bytes": size})
        try:
            with self._lock:
                self._record_mark(job, entry)
                self._tidy(entry)
        except Exception as error:
            self._note(step, f"old checkpoints could not be removed: {words(error)}")
        with self._lock:
            try:
                self._record_mark(job, entry)
                self._best = marks.standing(self._marks, [entry]) or self._best
            except Exception as error:
                self._note(step, f"the best checkpoint could not be marked: {words(error)}")
            job.ended = True

    def _tidy(self, newest: Entry) -> None:
        found = manifest.entries(self.folder)
        self._best = marks.standing(self._marks, found)
        for entry in retention.superfluous(
            found,
            newest,
            keep_last=self._keep_last,
            milestone_steps=self._milestone_steps,
            best=self._best.name if self._best else None,
            bad=self._bad,
        ):
            try:
                retention.discard(self.folder, entry.name)
                self._bad.discard(entry.name)
            except (OSError, Failure) as error:
                self._note(newest.step, f"the old checkpoint {entry.name} could not be removed: {words(error)}")

    def _load_marks(self) -> None:
        if not self._marks_read:
            self._marks = marks.read(self.folder)
            self._best = marks.standing(self._marks, manifest.entries(self.folder))
            self._marks_read = True

    def _record_mark(self, job: _Job, entry: Entry) -> None:
        if job.loss is not None:
            self._record(job.loss, entry)

    def _record(self, loss: float, entry: Entry) -> None:
        self._load_marks()
        assert entry.serial is not None
        mark = Mark(entry.step, float(loss), entry.name, entry.serial)
        if mark not in self._marks[:1]:
            marks.write(self.folder, [mark, *([self._best] if self._best else [])])
            self._marks = [mark, *([self._best] if self._best else [])]

    def _require_folder(self, *, final: bool) -> None:
        """Make the folder for checkpoints; but a run's folder that is gone in the middle of the run is not made anew.

        It may lie on a disk that is not connected just now, and what is written in its place would be hidden later. The
        last save of a run is made all the same, for the model would be lost without it.
        """
        if not files.is_remote(self.run):
            if self._was_there and not final and not os.path.isdir(self.run):
                raise FileNotFoundError(errno.ENOENT, "the run's folder is gone", self.run)
            files.make_folder(self.folder)
            self._was_there = True

    def _note(self, step: int, what: str) -> None:
        self._events.append({"event": "note", "step": step, "what": what})


def _free_name(step: int, found: list[Entry]) -> str:
    taken = {entry.name for entry in found}
    return next(name for name in (manifest.name_of(step, n) for n in range(1, len(found) + 2)) if name not in taken)


def _say(event: dict[str, Any]) -> None:
    if event["event"] != "save":
        print(f"tfgpt: {event['event']} at step {event['step']}: {event['what']}", file=sys.stderr)
