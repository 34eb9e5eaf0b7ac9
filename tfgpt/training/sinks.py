"""Where measurements go: a file of JSON lines, TensorBoard, Weights & Biases. Each may fail; `Metrics` sees to that."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from io import FileIO
from typing import Any

# Names that TensorBoard and Weights & Biases show, by event.
SCALARS = {
    "train": ("loss", "perplexity", "lr", "grad_norm", "tokens_per_second"),
    "eval": ("loss", "perplexity", "bits_per_byte"),
}


class JsonLines:
    """A file to which whole lines are appended, each in the hands of the operating system when `write` returns.

    Nothing is held open: the file may be moved, or its disk full, and the next line is tried anew with those before it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.waiting: list[bytes] = []  # lines that could not be written yet

    def write(self, line: bytes) -> None:
        """Append `line`, and before it all that had to wait; an OSError leaves them waiting."""
        self.waiting.append(line)
        with open(self.path, "ab+", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            # A process that was killed while it wrote leaves half a line; it must not swallow ours.
            start = b"\n" if end and stream.read(1) != b"\n" else b""
            _append(stream, start + b"".join(line + b"\n" for line in self.waiting))
        self.waiting.clear()


def _append(stream: FileIO, data: bytes) -> None:
    """Write all of `data` at the end, or nothing: a reader of events stops for good at a record that is cut off."""
    end, at = stream.seek(0, os.SEEK_END), 0
    try:
        while at < len(data):
            at += stream.write(data[at:])
    except OSError:
        # A full disk takes a part of what it is given; cutting it off again needs no room.
        stream.truncate(end)
        raise


class TensorBoard:
    """A TensorBoard event file in `folder`.

    Written by hand from TensorFlow's own messages: tf.summary.scalar wants the tensorboard package, which TensorFlow no
    longer brings, swallows the errors of a full disk, and cannot say from which step on older points are void.
    """

    def __init__(self, folder: str) -> None:
        import tensorflow as tf

        self._event, self._summary, self._log = tf.compat.v1.Event, tf.compat.v1.Summary, tf.compat.v1.SessionLog
        os.makedirs(folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = os.path.join(folder, name)
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def void_after(self, step: int) -> None:
        """Points of later steps that older files hold are shown no more."""
        start = self._log(status=self._log.START)
        self._append(self._event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, event: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Points of one moment; `seconds` is unix time."""
        points = [self._summary.Value(tag=f"{event}/{name}", simple_value=v) for name, v in values.items()]
        self._append(self._event(wall_time=seconds, step=step, summary=self._summary(value=points)))

    def _append(self, event: Any) -> None:
        from tfgpt.data.records import frame

        data = frame(event.SerializeToString())
        with open(self.path, "ab", buffering=0) as stream:
            _append(stream, data)


class WeightsAndBiases:
    """A run at wandb.ai, or on disk only with WANDB_MODE=offline; `project` is PROJECT or ENTITY/PROJECT."""

    def __init__(self, project: str, *, name: str, identity: str, folder: str, config: Mapping[str, Any]) -> None:
        import wandb

        entity, _, project = project.rpartition("/")
        # console="off": wandb would otherwise put itself between the progress bar and the terminal.
        self._run = wandb.init(
            project=project, entity=entity or None, name=name, id=identity, resume="allow", dir=folder,
            config=dict(config), settings=wandb.Settings(console="off"),
        )  # fmt: skip
        # Its own step may only grow, and a resumed run goes back some; so ours is one more number, and the axis.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Points of one moment."""
        self._run.log({"step": step, **{f"{event}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """Wait until all is sent, or on disk."""
        self._run.finish()
