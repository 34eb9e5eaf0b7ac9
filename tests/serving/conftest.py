"""A real server in a process of its own, with two small models, and the clients that people use."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.weights import others
from tfgpt import tokenizers
from tfgpt.data import english

pytest.importorskip("uvicorn")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of two models that write different texts."""
    pytest.importorskip("tensorflow")
    home = tmp_path_factory.mktemp("served")
    tokenizers.train_bpe((text for _, text in english.documents()), 300).save(home / "encoder")
    for number, name in enumerate(("one", "two")):
        others.openai(home / name, home / "encoder", seed=number)
    return home


class Served:
    """One `tfgpt serve`, or a `script` that runs it in its own way."""

    def __init__(self, home, folder, *, script=("-m", "tfgpt"), grace=20, **settings):
        first = {"port": 0, "longest": 20_000, "models": [{"key": "general", "path": str(home / "one"), "dtype": "float32"},
                                       {"key": "other", "path": str(home / "two"), "dtype": "float32"}]}  # fmt: skip
        (folder / "server.json").write_text(json.dumps(first | settings))
        self.log = folder / "log.txt"
        words = [sys.executable, *script, "serve", str(folder / "server.json"), "--grace", str(grace)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        self.url = self._until(r"serving on (http://\S+)")

    def _until(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(pattern, self.log.read_text("utf-8", "replace")):
                return found[1]
            time.sleep(0.05)
        raise AssertionError(self.log.read_text("utf-8", "replace"))

    def ready(self):
        """Wait for the first model."""
        end = time.monotonic() + 90
        while time.monotonic() < end:
            if httpx.get(self.url + "/ready").status_code == 200:
                return self
            time.sleep(0.1)
        raise AssertionError(self.log.read_text("utf-8", "replace"))

    def post(self, path, body, **more):
        """An answer."""
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def settled(self, name, value=0.0, seconds=20.0):
        """Wait until a number of /metrics is this; how long that took."""
        began = time.monotonic()
        while self.metric(name) != value:
            assert time.monotonic() < began + seconds, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)
        return time.monotonic() - began

    def connect(self, **options):
        """A socket to it, for what no client would send."""
        host, port = self.url.removeprefix("http://").split(":")
        found = socket.socket()
        for name, value in options.items():
            found.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        found.settimeout(30)
        found.connect((host, int(port)))
        return found

    def metric(self, name):
        """One number of /metrics."""
        text = httpx.get(self.url + "/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0

    def children(self):
        """Processes of models."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if not found.parent.exists():
            return []
        return [int(pid) for pid in found.read_text().split()]

    def gone(self, children):
        """Wait until none of these processes is there any more."""
        end = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in children):
            assert time.monotonic() < end, "a process has outlived the server"
            time.sleep(0.05)

    def end(self, number=signal.SIGTERM):
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self):
        """Let nothing of it remain."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """One server for all tests that leave it as it was."""
    found = Served(models, tmp_path_factory.mktemp("server"))
    yield found.ready()
    found.kill()


@pytest.fixture
def serve(models, tmp_path):
    """Starts a server with settings of its own."""
    started = []

    def start(**settings):
        started.append(Served(models, tmp_path, **settings))
        return started[-1].ready()

    yield start
    for found in started:
        found.kill()
