"""Shared by all tests: where the optional GPT-2 encoder and sample text lie, and small stand-ins when they are absent."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

# TensorFlow from 2.20 on shows its LLVM to every library that is loaded after it, and triton, which PyTorch's CUDA build
# brings, crashes on it (tensorflow #124205). PyTorch does without triton where it is not to be had.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TFGPT_TEST_SHARED", ROOT.parent / "shared"))

# On a shared machine time says nothing about a property; in CI the same examples are tried each time, elsewhere new ones.
settings.register_profile("tfgpt", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tfgpt")


@pytest.fixture(scope="session")
def gpt2_encoder() -> Path:
    """Folder of GPT-2's real encoder.json and vocab.bpe, where the machine has them."""
    folder = SHARED / "encoder"
    if not (folder / "encoder.json").exists():
        pytest.skip("GPT-2's encoder files are not on this machine")
    return folder


@pytest.fixture(scope="session")
def shakespeare() -> Path:
    """The tiny Shakespeare text, where the machine has it."""
    path = SHARED / "data" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("tiny Shakespeare is not on this machine")
    return path


@pytest.fixture(scope="session")
def emulator():
    """A storage service of buckets on this machine."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    while server._api._httpd is None:
        time.sleep(0.01)
    yield server
    server._api._httpd.shutdown()


@pytest.fixture
def bucket(emulator, monkeypatch):
    """Address of an empty bucket."""
    emulator.wipe(keep_buckets=True)
    port = emulator._api._httpd.server_address[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    return "gs://bucket"
