"""Reading checkpoints: every byte is compared with the manifest before it is used, and a bad one is never used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgpt import files, tensors
from tfgpt.errors import Failure, UserError
from tfgpt.progress import Progress
from tfgpt.training import manifest, marks
from tfgpt.training.manifest import Damaged, Entry

# Below this size, a progress bar would only flicker.
LARGE = 1 << 28


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates; `weights` have GPT-2's names and Hugging Face's layout, as float32.

    `path` is its folder; `path`/tokenizer holds the tokenizer's files, if the run stored them.
    """

    step: int
    path: str
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]
    config: dict[str, Any]
    sha256: str = ""  # of the file of the weights, where a manifest states it


def load(folder: str, *, optimizer: bool = True, best: bool = False) -> Checkpoint:
    """Load a checkpoint folder, or the newest good (or the `best`) checkpoint of a run's folder.

    Without `optimizer`, its file is neither read nor checked, beyond its size.

    >>> load("models/my_model", optimizer=False).weights["wte.weight"].shape       # doctest: +SKIP
    (50304, 768)
    """
    place = find(folder)
    if best and not place.alone:
        mark = marks.standing(marks.read(place.folder), manifest.entries(place.folder))
        if mark is None:
            raise UserError("no checkpoint of this run is marked as the best one", where=place.folder)
        place = Place(files.join(place.folder, mark.name), True)
    if place.alone:
        try:
            return read(place.folder, optimizer=optimizer)
        except Damaged as error:
            raise Failure(
                f"the checkpoint is damaged: {error}",
                where=place.folder,
                fix="name the folder of the whole run: the newest good checkpoint in it is then taken",
            ) from error

    def say(entry: Entry, error: Damaged) -> None:
        print(f"tfgpt: {files.join(place.folder, entry.name)} is passed over: {error}", file=sys.stderr)

    found = newest(place.folder, optimizer=optimizer, passed_over=say)
    assert found is not None, "find() has seen one"
    return found


@dataclass(frozen=True)
class Place:
    """A folder of checkpoints, or (`alone`) the folder of one."""

    folder: str
    alone: bool


def find(folder: str) -> Place:
    """What the user's `folder` is: a run, its folder of checkpoints, or one checkpoint; UserError if none of these."""
    path = files.text_of(folder)
    name = manifest.base_name(path)
    inner = files.join(path, "checkpoints")
    # First of all: a run may have begun in the folder of the checkpoint that it started from.
    if manifest.entries(inner):
        return Place(inner, False)
    if files.exists(files.join(path, manifest.MANIFEST)):
        return Place(path, True)
    if manifest.entries(path):
        return Place(path, False)
    if manifest.step_of(name) is not None and files.is_folder(path):
        return Place(path, True)
    there = files.is_folder(path)
    raise UserError(
        "there is no checkpoint in this folder" if there else "there is no such folder",
        where=path,
        fix="name a run's folder (the model_path of its configuration), or one of its checkpoints",
    )


def newest(
    folder: str,
    *,
    passed_over: Callable[[Entry, Damaged], None],
    at_most: int | None = None,
    optimizer: bool = True,
) -> Checkpoint | None:
    """The checkpoint saved last that is whole (and not beyond step `at_most`); None if there is none at all.

    `passed_over` hears of every bad one on the way. If all are bad, that is a Failure: training must not begin anew
    beside hundreds of hours of work.
    """
    while True:
        found = manifest.entries(folder)
        candidates = [entry for entry in reversed(found) if at_most is None or entry.step <= at_most]
        wrong = []
        for entry in candidates:
            try:
                return read(files.join(folder, entry.name), optimizer=optimizer)
            except Damaged as error:
                wrong.append(f"{entry.name}: {error}")
                fault = error
                passed_over(entry, fault)
        if not candidates:
            return None
        # Who reads beside a running training may have seen folders that have just given way to newer ones.
        if [entry.name for entry in manifest.entries(folder)] == [entry.name for entry in found]:
            raise Failure(
                "no checkpoint here is whole:\n    " + "\n    ".join(wrong),
                where=folder,
                fix="bring one back from a copy, or choose another model_path to begin anew",
            )


def read(folder: str, *, optimizer: bool = True) -> Checkpoint:
    """One checkpoint with every byte checked; `Damaged` if anything differs from its manifest."""
    sealed = manifest.read(folder)
    check_steps(folder, sealed)
    wanted = [name for name in sealed.parts if optimizer or name != manifest.OPTIMIZER]
    for name, part in sealed.parts.items():
        manifest.check_size(folder, name, part)
    contents = {}
    with bar("load", sum(sealed.parts[name].bytes for name in wanted)) as advance:
        for name in wanted:
            contents[name] = manifest.read_part(folder, name, sealed.parts[name], advance)
    state = as_json(contents, manifest.STATE)
    if state.get("step") != sealed.step:
        raise Damaged(f"{manifest.STATE} is of step {state.get('step')}, the manifest of step {sealed.step}")
    return Checkpoint(
        step=sealed.step,
        path=folder,
        weights=as_arrays(contents, manifest.WEIGHTS),
        optimizer=as_arrays(contents, manifest.OPTIMIZER) if optimizer else {},
        state=state,
        config=as_json(contents, manifest.CONFIG),
        sha256=sealed.parts[manifest.WEIGHTS].sha256,
    )


def check_steps(folder: str, sealed: manifest.Manifest) -> None:
    """`Damaged` if the folder's name states another step; a copy under a name of the user's own states none."""
    named = manifest.step_of(manifest.base_name(folder))
    if named not in (None, sealed.step):
        raise Damaged(f"the folder is named for step {named}, but holds step {sealed.step}")


def as_arrays(contents: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one safetensors file among `contents`."""
    try:
        return tensors.parse(contents[name])
    except KeyError as error:
        raise Damaged(f"{name} is not in the manifest") from error
    except ValueError as error:
        raise Damaged(f"{name} is {error}") from error


def as_json(contents: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """The object of one JSON file among `contents`."""
    try:
        value = json.loads(contents[name].tobytes())
    except KeyError as error:
        raise Damaged(f"{name} is not in the manifest") from error
    except ValueError as error:
        raise Damaged(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{name} is not an object")
    return value


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar as a context that gives its `update`, if `total` bytes take long enough to be worth one."""
    if total < LARGE:
        yield int
        return
    with Progress(label, total=total) as progress:
        yield progress.update
