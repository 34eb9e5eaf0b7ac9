"""Is what lies in a run's folder worth going on from? Every file, byte and number of its checkpoints is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.progress import Progress
from tfgpt.training import manifest, marks, restoring
from tfgpt.training.manifest import CONFIG, OPTIMIZER, STATE, WEIGHTS, Damaged
from tfgpt.weights.source import expected


@dataclass
class Report:
    """What was found in one checkpoint: `bytes` of all files, `time` of saving in unix seconds, and all that is wrong."""

    path: str
    step: int | None
    bytes: int = 0
    time: float | None = None
    best: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether training could go on from here."""
        return not self.problems


def verify(folder: str) -> list[Report]:
    """Check one checkpoint, or all of a run (oldest first), to the last byte; nothing is changed.

    >>> [report.step for report in verify("models/my_model") if not report.good]         # doctest: +SKIP
    [3000]
    """
    place = restoring.find(folder)
    if place.alone:
        paths, best = [place.folder], None
    else:
        found = manifest.entries(place.folder)
        paths = [files.join(place.folder, entry.name) for entry in found]
        mark = marks.standing(marks.read(place.folder), found)
        best = files.join(place.folder, mark.name) if mark else None
    with Progress("verify", total=sum(size for path in paths for _, size in files.walk(path))) as progress:
        reports = [_verify(path, progress.update) for path in paths]
    for report in reports:
        report.best = report.path == best
    return reports


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a configuration calls for.

    >>> shapes({"n_layer": 1, "n_embd": 8, "n_ctx": 4, "n_vocab": 5, "vocab_multiple": 64})["wte.weight"]
    (64, 8)
    """
    multiple = config["vocab_multiple"]
    return expected(config | {"n_vocab": -(-config["n_vocab"] // multiple) * multiple})


def _verify(path: str, advance: Callable[[int], object]) -> Report:
    report = Report(path, manifest.step_of(manifest.base_name(path)))
    try:
        sealed = manifest.read(path)
        report.step, report.time = sealed.step, sealed.time
        report.bytes = sum(part.bytes for part in sealed.parts.values())
        restoring.check_steps(path, sealed)
    except Damaged as error:
        report.problems.append(str(error))
        return report
    small: dict[str, np.ndarray] = {}
    found: dict[str, tuple[int, ...]] | None = None
    for name in (WEIGHTS, OPTIMIZER, CONFIG, STATE, *sorted(set(sealed.parts) - {WEIGHTS, OPTIMIZER, CONFIG, STATE})):
        try:
            if name not in sealed.parts:
                raise Damaged(f"{name} is not in the manifest")
            content = manifest.read_part(path, name, sealed.parts[name], advance)
            if name in (WEIGHTS, OPTIMIZER):
                arrays = restoring.as_arrays({name: content}, name)
                report.problems += _not_finite(name, arrays)
                if name == WEIGHTS:
                    found = {key: array.shape for key, array in arrays.items()}
            elif name in (CONFIG, STATE):
                small[name] = content
        except Damaged as error:
            report.problems.append(str(error))
    try:
        if STATE in small and (step := restoring.as_json(small, STATE).get("step")) != sealed.step:
            report.problems.append(f"{STATE} is of step {step}, the manifest of step {sealed.step}")
        if CONFIG in small and found is not None:
            report.problems += _misshapen(found, restoring.as_json(small, CONFIG))
    except Damaged as error:
        report.problems.append(str(error))
    return report


def _not_finite(file: str, arrays: dict[str, np.ndarray]) -> list[str]:
    wrong = []
    for name, array in arrays.items():
        if array.dtype.kind not in "biu":
            # float32 holds every value of the shorter types, which numpy's isfinite does not all know.
            wide = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
            if count := int(array.size - np.count_nonzero(np.isfinite(wide))):
                wrong.append(f"{file}: {count} of {array.size} numbers in {name} are not finite")
    return wrong


def _misshapen(found: dict[str, tuple[int, ...]], config: dict[str, Any]) -> list[str]:
    try:
        wanted = shapes(config)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        return [f"{CONFIG} does not give the model's shape: {type(error).__name__}: {error}"]
    wrong = [f"{WEIGHTS} lacks {name}" for name in wanted if name not in found]
    wrong += [
        f"{WEIGHTS} has {name}, which the configuration does not call for" for name in found if name not in wanted
    ]
    wrong += [
        f"{name} is {list(found[name])}, but the configuration calls for {list(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != shape
    ]
    return wrong
