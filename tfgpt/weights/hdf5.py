"""Snapshots of shawwn's fine-tuner (and dixie's, which is built on it): GPT-2's variables in an HDF5 file, model-<step>.hdf5.

Files that are no longer wanted are not removed there but cut to 0 bytes, so an empty file means "deleted". HDF5 keeps no
checksums: a file that was cut short is noticed, a changed byte inside of it is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tfgpt.errors import UserError
from tfgpt.weights.bundle import Variable
from tfgpt.weights.openai import assemble
from tfgpt.weights.source import Source

SNAPSHOT = re.compile(r".*?-([0-9]{1,18})(?:-[0-9]+)?\.hdf5")
ENDING = ".hdf5"
# What h5py raises for a damaged file, according to where the damage lies.
REFUSALS = (OSError, RuntimeError, KeyError, ValueError, TypeError)


def recognises(path: str) -> bool:
    """Whether `path` looks like a snapshot (.hdf5) or a folder that holds some."""
    if os.path.isdir(path):
        return any(name.endswith(ENDING) for name in os.listdir(path))
    return path.endswith(ENDING) and os.path.isfile(path)


def read(path: str, *, n_head: int | None = None) -> Source:
    """The model in a snapshot, or in the newest of a folder; `n_head` is needed as for ConnorJL's checkpoints.

    >>> read("checkpoint/run1/model-4000.hdf5").keys["n_layer"]        # doctest: +SKIP
    12
    """
    file, notes = _newest(path) if os.path.isdir(path) else (path, ())
    if not os.path.isfile(file):
        raise UserError("there is no such snapshot", where=file, fix="name a file model-<step>.hdf5, or its folder")
    if os.path.getsize(file) == 0:
        raise UserError(
            "this snapshot is empty: shawwn's fine-tuner deletes old ones so", where=file, fix="name another one"
        )
    kind = "GPT-2 of shawwn's fine-tuner (an HDF5 snapshot)"
    return assemble(_variables(file), kind=kind, path=file, n_head=n_head, notes=notes)


def _newest(folder: str) -> tuple[str, tuple[str, ...]]:
    names = [name for name in os.listdir(folder) if name.endswith(ENDING)]
    whole = [name for name in names if os.path.getsize(os.path.join(folder, name))]
    if not whole:
        said = (
            f"all {len(names)} snapshots in this folder are empty: they were deleted" if names else "no snapshot here"
        )
        raise UserError(said, where=folder, fix="name a folder with a file model-<step>.hdf5")

    def step(name: str) -> tuple[int, str]:
        match = SNAPSHOT.fullmatch(name)
        return (int(match[1]) if match else -1, name)

    chosen = max(whole, key=step)
    notes = (f"there are {len(whole)} snapshots: took {chosen}",) if len(whole) > 1 else ()
    return os.path.join(folder, chosen), notes


def _variables(path: str) -> dict[str, Variable]:
    import h5py

    found: dict[str, Variable] = {}

    def reading(name: str) -> Callable[[], np.ndarray]:
        def fetch() -> np.ndarray:
            try:
                with h5py.File(path, "r") as file:
                    array: np.ndarray = file[name][()]
            except REFUSALS as error:
                raise _damaged(path, f"{name} cannot be read from it ({error})") from error
            return array

        return fetch

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            # TensorFlow's name of a variable's value is that of the variable and ":0".
            found[name.removesuffix(":0")] = Variable(tuple(item.shape or ()), item.dtype.name, reading(name))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except REFUSALS as error:
        raise _damaged(path, f"it is cut short or no HDF5 file ({error})") from error
    return found


def _damaged(path: str, what: str) -> UserError:
    return UserError(f"this snapshot is damaged: {what}", where=path, fix="fetch it again")
