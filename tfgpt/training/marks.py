"""Which checkpoint is the best by evaluation: one small file beside the checkpoints, never torn by a crash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from tfgpt import files
from tfgpt.training.manifest import Entry

NAME = "best.json"


class Mark(NamedTuple):
    """`loss` in nats per token; `serial` tells the checkpoint that was meant from a later one of the same step."""

    step: int
    loss: float
    name: str
    serial: int


def read(folder: str) -> list[Mark]:
    """All marks of a folder of checkpoints, the newest first."""
    try:
        return [Mark(**mark) for mark in json.loads(files.read_bytes(files.join(folder, NAME)))]
    except FileNotFoundError:
        return []
    except (TypeError, ValueError):
        return []  # a mark that cannot be read is no mark: the next evaluation makes another


def write(folder: str, marks: Sequence[Mark]) -> None:
    """Replace the marks, whole or not at all."""
    files.write_text(files.join(folder, NAME), json.dumps([mark._asdict() for mark in marks]) + "\n")


def standing(marks: Sequence[Mark], found: Sequence[Entry]) -> Mark | None:
    """The newest mark whose checkpoint is there: one made for a save that never ended leaves the mark before it valid."""
    there = {(entry.name, entry.serial) for entry in found}
    return next((mark for mark in marks if (mark.name, mark.serial) in there), None)
