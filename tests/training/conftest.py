"""Shared by the training tests: one small encoded text, and commands that start without waiting for TensorFlow's import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data.conftest import run as encode
from tests.training import small

PATIENCE = 240.0  # seconds; only a test that fails, or a very busy machine, takes so long


class Command:
    """One command that was started: wait for it, look at it, kill it."""

    def __init__(self, folder: Path, starter: Starter, pid: int) -> None:
        self.folder, self.starter, self.pid = folder, starter, pid

    @property
    def code(self) -> int | None:
        return self.starter.codes.get(self.pid)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def until(self, condition, *, alive: bool = True) -> None:
        """Wait until `condition()` holds; with `alive` the command must not end before."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {self.out} {self.err}"
            assert not alive or self.code is None, f"ended early: {self.out} {self.err}"
            time.sleep(0.002)

    def wait(self) -> int:
        self.until(lambda: self.code is not None, alive=False)
        return self.code

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Starter:
    """The process behind `start`; see starter.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        words = [sys.executable, str(ROOT / "tests/training/starter.py")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.codes: dict[int, int] = {}
        self.begun: list[int] = []
        assert json.loads(self.process.stdout.readline()) == {"ready": True}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            answer = json.loads(line)
            if "code" in answer:
                self.codes[answer["pid"]] = answer["code"]
            else:
                self.begun.append(answer["pid"])

    def start(self, *words, folder: Path, slow=None, **environment) -> Command:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("out", "err"):
            (folder / name).write_text("")
        job = {"words": [str(word) for word in words], "folder": str(folder), "slow": slow or {}}
        known = len(self.begun)
        self.process.stdin.write(json.dumps({**job, "environment": environment}) + "\n")
        self.process.stdin.flush()
        end = time.monotonic() + PATIENCE
        while len(self.begun) == known:
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.002)
        return Command(folder, self, self.begun[known])


@pytest.fixture(scope="session")
def starter():
    found = Starter()
    yield found
    found.process.stdin.close()
    found.process.wait(timeout=60)


@pytest.fixture
def start(starter, data, tmp_path):
    """Starts `tfgpt train` on the small model; keywords are keys of the configuration."""
    begun = []

    def start(run="run", *, words=(), slow=None, folder=None, environment=None, **keys) -> Command:
        settings = {**small.KEYS, "data_path": str(data), "model_path": str(tmp_path / run), **keys}
        place = folder or tmp_path / f"command-{len(begun)}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.json").write_text(json.dumps(settings))
        words = ["train", "--model", "model.json", *words]
        begun.append(starter.start(*words, folder=place, slow=slow, **(environment or {})))
        return begun[-1]

    yield start
    for command in begun:
        if command.code is None:
            command.signal(9)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder of TFRecords of a small text, encoded by bytes, with an evaluation part."""
    folder = tmp_path_factory.mktemp("training-data")
    (folder / "text").mkdir()
    for number in range(20):
        small.write_text(folder / "text" / f"{number}.txt", seed=number)
    encode(folder / "text", folder / "data")
    return folder / "data"


@pytest.fixture
def configured(data, tmp_path):
    """A configuration of the small model over the small text; its run is in the test's own folder."""
    return lambda **keys: small.config(data_path=str(data), **{"model_path": str(tmp_path / "run"), **keys})
