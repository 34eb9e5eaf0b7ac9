"""Which engine a machine writes with: the one compiled for its processor, or TensorFlow's where there is a GPU or a TPU."""

from __future__ import annotations

import importlib.util
from typing import Any

from tfgpt.machine import may_have_accelerator
from tfgpt.quiet import quiet_start


def engine_class() -> type[Any]:
    """`tfgpt.native.engine.Engine` or `tfgpt.generation.engine.Engine`, which are used alike.

    TensorFlow is asked, and imported, only where the system has something that could be an accelerator.
    """
    if importlib.util.find_spec("numba") is not None and not (may_have_accelerator() and _tensorflow_has_one()):
        from tfgpt.native.engine import Engine

        return Engine
    with quiet_start():
        from tfgpt.generation.engine import Engine as OnTensorFlow
    return OnTensorFlow


def _tensorflow_has_one() -> bool:
    with quiet_start():
        import tensorflow as tf

        return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
