"""`compiled` turns a function into code of this processor, once: what was compiled is kept for the next process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types

from tfgpt import files

HERE = Path(__file__).parent


def compiled(*fast: str, inner: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: the function runs without the interpreter's lock and divides as NumPy does.

    `fast` names what arithmetic may do beyond its rules, such as "reassoc", to change the order of a sum. An `inner` function is
    called by compiled ones only, and takes less time to compile.
    """

    how: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fast)}
    how |= {"no_cpython_wrapper": inner, "no_cfunc_wrapper": True}
    return lambda function: _kept(lambda cache: numba.njit(cache=cache, **how)(function))


def outer(function: Callable[..., None], count: int) -> Any:
    """A function of `count` whole numbers compiled for itself, with an address by which compiled code calls it.

    Whatever a function calls is otherwise compiled into it, and once more into those that call it.
    """
    signature = types.void(*[types.intp] * count)
    return _kept(lambda cache: numba.cfunc(signature, cache=cache, error_model="numpy")(function))


def _kept(make: Callable[[bool], Any]) -> Any:
    # Numba looks whether the function's own file has changed, but not those that it calls into: hence a folder for each
    # state of this room. It takes the folder from here while it decorates.
    folder = kept_in()
    if folder is None:
        return make(False)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        return make(True)
    finally:
        numba.config.CACHE_DIR = before


@cache
def kept_in() -> Path | None:
    """The folder for compiled code of this very source: beside it, or in the cache; None where neither can be written."""
    sources = hashlib.blake2b(digest_size=8)
    for path in sorted(HERE.glob("*.py")):
        sources.update(path.read_bytes())
    places: list[Callable[[], Path]] = [lambda: HERE / "__pycache__", lambda: files.cache_folder() / "compiled"]
    for place in places:
        try:
            folder = place() / f"native-{sources.hexdigest()}"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # a user without a home
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None
