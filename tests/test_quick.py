"""Keras starts without matplotlib in our own processes, and everybody else still has it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("skip", [True, False])
def test_keras_starts_without_matplotlib_and_others_still_find_it(skip):
    code = f"""
import sys
from tfgpt.quick import skip_pictures
if {skip}:
    skip_pictures()
    skip_pictures()
import keras
print("matplotlib" in sys.modules)
import matplotlib.figure
print(sum(type(finder).__module__ == "tfgpt.quick" for finder in sys.meta_path))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # If Keras stops asking for it by itself, the module is not needed any more.
    assert done.stdout.split() == [str(not skip), str(int(skip))]
