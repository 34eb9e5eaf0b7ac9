"""What "auto" chooses, and which engine a machine gets."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.generation.test_choosing import LARGE, SMALL
from tfgpt import machine
from tfgpt.errors import UserError
from tfgpt.generation import engines
from tfgpt.native import choosing


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"float32": 4.0, "bfloat16": 2.0, "int8": 1.0}, "int8"),
        ({"float32": 4.0, "bfloat16": 2.0, "int8": 9.0}, "bfloat16"),
        ({"float32": 4.0, "bfloat16": 3.9, "int8": 3.8}, "float32"),  # not worth what it costs
        ({"float32": 1.0, "bfloat16": 2.0, "int8": 3.0}, "float32"),
    ],
)
def test_auto_takes_what_the_clock_says(monkeypatch, seconds, chosen):
    monkeypatch.setattr(choosing, "seconds_of", lambda dtype, width, slots: seconds[dtype])
    dtype, why = choosing.choose("auto", LARGE, slots=8)
    assert dtype == chosen and "on this machine" in why
    assert choosing.choose("auto", SMALL, slots=8)[0] == "float32"
    assert choosing.choose("bfloat16", SMALL, slots=8)[0] == "bfloat16"


@pytest.mark.parametrize("slots", [1, 9])
def test_the_clock_runs_on_the_real_products(slots):
    assert all(0 < choosing.seconds_of(dtype, 64, slots) < 5 for dtype in ("float32", "bfloat16", "int8"))


def test_an_unknown_type_names_the_legal_ones():
    with pytest.raises(UserError) as caught:
        choosing.choose("int4", SMALL, slots=1)
    assert "int8" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "visible", "found", "module"),
    [
        (None, None, [], "tfgpt.native.engine"),
        ("/dev/nvidia0", None, ["GPU"], "tfgpt.generation.engine"),
        ("/dev/nvidia0", None, [], "tfgpt.native.engine"),  # a driver, and no TensorFlow for it
        ("/dev/nvidia0", "-1", ["GPU"], "tfgpt.native.engine"),
        ("/dev/accel0", None, ["TPU"], "tfgpt.generation.engine"),
    ],
)
def test_the_engine_of_a_machine(monkeypatch, device, visible, found, module):
    exists = os.path.exists
    shown = [f"/dev/{name}" for name in machine.ACCELERATORS]
    monkeypatch.setattr(os.path, "exists", lambda path: path == device if path in shown else exists(path))
    monkeypatch.setattr(engines, "_tensorflow_has_one", lambda: bool(found))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert engines.engine_class().__module__ == module


def test_without_numba_tensorflow_writes(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
    assert engines.engine_class().__module__ == "tfgpt.generation.engine"
