"""What a run measures and what happens to it, to metrics.jsonl, TensorBoard and Weights & Biases at once.

metrics.jsonl is the truth from which `tfgpt report` is made: one JSON object a line with "event", "step" and "time". JSON
knows no NaN; such a number is written as "NaN", "Infinity" or "-Infinity".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.training.sinks import SCALARS, JsonLines, TensorBoard, WeightsAndBiases

FILE = "metrics.jsonl"
UPLOAD_SECONDS = 30.0


class Metrics:
    """All sinks of one run in one object; a sink that fails says so once, is tried again, and never ends the run.

    A run in a bucket is written in the cache of this machine and sent there every half minute (less often if sending takes
    long), at `flush` and at `close`; only when that history cannot be fetched at the beginning is an error raised.

    >>> metrics = Metrics("models/mine", tensorboard=False)          # doctest: +SKIP
    >>> metrics.write("train", 100, loss=3.2, lr=1e-3)               # doctest: +SKIP
    >>> metrics.close()                                              # doctest: +SKIP
    """

    def __init__(
        self, run: str, *, resumed_at: int | None = None, tensorboard: bool = True, wandb: str | None = None,
        echo: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.run = files.text_of(run)
        self._say = echo or (lambda text: print(text, file=sys.stderr, flush=True))
        self._failed: set[str] = set()
        self._sent: dict[str, int] = {}
        self._next_upload = time.monotonic() + UPLOAD_SECONDS
        self.folder = _fetch(self.run) if files.is_remote(self.run) else self.run
        os.makedirs(self.folder, exist_ok=True)
        self._lines = JsonLines(os.path.join(self.folder, FILE))
        self._board: TensorBoard | None = None
        self._wandb: WeightsAndBiases | None = None
        self._project = wandb
        if tensorboard:
            self._try("TensorBoard", self._open_board, resumed_at)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Note that `event` happened after `step` updates; numbers may be Python's, NumPy's or TensorFlow's."""
        line = {"event": event, "step": int(step), "time": time.time(), **plain(fields)}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half a surrogate pair, as a byte tokenizer's sample may hold, is no UTF-8; a mark in its place is.
        self._try(FILE, self._lines.write, text.encode("utf-8", "replace"))
        values = {name: _float(line[name]) for name in SCALARS.get(event, ()) if line.get(name) is not None}
        if self._board and values:
            self._try("TensorBoard", self._board.write, event, line["step"], line["time"], values)
        if self._board and event == "rollback" and isinstance(line.get("to"), int):
            self._try("TensorBoard", self._board.void_after, line["to"])
        if self._project:
            self._try("Weights & Biases", self._write_wandb, event, line, values)
        if time.monotonic() >= self._next_upload:
            self.flush()

    def flush(self) -> None:
        """Send what is new to the bucket, if the run lies in one; on this machine each line is there at once."""
        if not files.is_remote(self.run):
            return
        began = time.monotonic()
        self._try("sending metrics to the bucket", self._upload)
        # Sending a long history again takes its time: never more than a twentieth of the run's.
        self._next_upload = time.monotonic() + max(UPLOAD_SECONDS, 20 * (time.monotonic() - began))

    def close(self) -> None:
        """Send the rest and end the sinks; a second call does nothing."""
        if self._wandb:
            self._try("Weights & Biases", self._wandb.close)
        self._wandb = self._project = self._board = None
        self.flush()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open_board(self, resumed_at: int | None) -> None:
        self._board = TensorBoard(os.path.join(self.folder, "tensorboard"))
        if resumed_at is not None:
            self._board.void_after(resumed_at)

    def _write_wandb(self, event: str, line: Mapping[str, Any], values: Mapping[str, float]) -> None:
        if self._wandb is None:
            project, self._project = self._project, None  # what cannot be opened is not tried at every line
            self._wandb = WeightsAndBiases(
                str(project), name=os.path.basename(self.run.rstrip("/")), identity=self._identity(), folder=self.folder,
                config=line.get("config") or {},
            )  # fmt: skip
            self._project = project
        if values:
            self._wandb.write(event, line["step"], values)

    def _identity(self) -> str:
        """The same for all sessions of a run, another one for a new run in the same place: from the run's first line."""
        try:
            with open(self._lines.path, "rb") as stream:
                first = stream.readline()
        except OSError:
            first = str(time.time()).encode()
        place = self.run if files.is_remote(self.run) else os.path.realpath(self.run)
        return hashlib.blake2b(place.encode("utf-8", "surrogateescape") + first, digest_size=8).hexdigest()

    def _upload(self) -> None:
        for path, size in files.walk(self.folder):
            name = os.path.relpath(path, self.folder).replace(os.sep, "/")
            if (name == FILE or name.startswith("tensorboard/")) and self._sent.get(name) != size:
                files.copy_in(path, files.join(self.run, name))
                self._sent[name] = size

    def _try(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                self._say(f"{name}: {_why(error)}; training goes on")
        else:
            if name in self._failed:
                self._failed.discard(name)
                self._say(f"{name}: works again")


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy and TensorFlow numbers as Python's, no NaN, keys as text.

    A float32 keeps its shortest digits, from which the very same float32 is read back.

    >>> plain({"loss": np.float32(0.1), "norm": float("nan")})
    {'loss': 0.1, 'norm': 'NaN'}
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind == "f" and value.dtype.itemsize < 8:
            wide = value.astype(np.float32).astype(str).astype(np.float64)  # type: ignore[union-attr]
            return plain(wide.tolist())
        return plain(value.tolist()) if value.dtype.kind in "fiub" else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return plain(np.asarray(value.numpy())) if hasattr(value, "numpy") else str(value)


def _fetch(run: str) -> str:
    """A folder of this machine with the history of a run in a bucket."""
    folder = files.cache_folder() / "runs" / hashlib.blake2b(run.rstrip("/").encode(), digest_size=12).hexdigest()
    local, remote = folder / FILE, files.join(run, FILE)
    folder.mkdir(parents=True, exist_ok=True)
    there = files.read_bytes(remote) if files.exists(remote) else b""
    # After a kill this machine knows some lines more than the bucket; anything else here is of another run.
    if not there or not local.exists() or not local.read_bytes().startswith(there):
        files.write_bytes(local, there)
        for old in (folder / "tensorboard").glob("events.*"):
            old.unlink()
    return str(folder)


def _float(value: Any) -> float:
    try:
        return float(value)  # reads "NaN" and "Infinity" as well
    except (TypeError, ValueError):
        return math.nan


def _why(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f'{error.name} is not installed (pip install "tfgpt[wandb]")' if error.name == "wandb" else str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return (str(error).splitlines() or [type(error).__name__])[0]
