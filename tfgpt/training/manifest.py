"""What makes a folder a checkpoint: its name, and the manifest that states the size and sha256 of every file in it.

RUN/checkpoints/step-00001000/{weights.safetensors, optimizer.safetensors, config.json, state.json, tokenizer/*, manifest.json}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfgpt import files
from tfgpt.errors import UserError

FORMAT = "tfgpt-checkpoint-1"
MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER, CONFIG, STATE = "weights.safetensors", "optimizer.safetensors", "config.json", "state.json"
NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
PIECE = 16 << 20


class Damaged(Exception):
    """A checkpoint that cannot be trusted; the text says which file, and what is wrong with it."""


class Unreadable(Damaged):
    """A checkpoint whose files the system does not hand out just now: passed over, but nobody's to delete."""


class Part(NamedTuple):
    """Size in bytes and hex sha256 of one file."""

    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """`serial` counts the saves of a run: after a rollback, the newest checkpoint is not the one of the highest step."""

    step: int
    serial: int
    time: float
    parts: dict[str, Part]


class Entry(NamedTuple):
    """One checkpoint folder; `serial` is None without a readable manifest, and `what` says if that is past mending."""

    name: str
    step: int
    serial: int | None
    what: str = ""


def name_of(step: int, revision: int = 1) -> str:
    """A checkpoint's folder; a step that is saved again, after a rollback, gets a second one until the first is gone.

    >>> name_of(1000), name_of(1000, 2)
    ('step-00001000', 'step-00001000.2')
    """
    return f"step-{step:08}" + (f".{revision}" if revision > 1 else "")


def step_of(name: str) -> int | None:
    """The step that a folder's name states; None for any other name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def base_name(folder: str) -> str:
    """The last part of a path, local or in a bucket."""
    return folder.rstrip("/" if files.is_remote(folder) else "/" + os.sep).replace(os.sep, "/").rpartition("/")[2]


def entries(folder: str) -> list[Entry]:
    """Every checkpoint in `folder`, oldest first in the order of saving; none if the folder does not exist.

    In a bucket, a checkpoint without a manifest does not exist: its writer never came to the end.
    """
    if files.is_remote(folder):
        names = {parts[0] for parts in objects(folder).values() if parts[1:] == [MANIFEST]}
    else:
        try:
            names = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
        except FileNotFoundError:
            names = set()
    found = [_entry(folder, name) for name in sorted(names) if step_of(name) is not None]
    known = [(entry.step, entry.serial) for entry in found if entry.serial is not None]

    def place(entry: Entry) -> tuple[float, int, str]:
        # Without a serial of its own, it is taken to come after all that are not beyond its step.
        before = max((serial for step, serial in known if step <= entry.step), default=0)
        return (before + 0.5 if entry.serial is None else entry.serial, entry.step, entry.name)

    return sorted(found, key=place)


def objects(folder: str) -> dict[str, list[str]]:
    """Every object below a folder of a bucket, and the parts of its name from there on."""
    base = folder.rstrip("/") + "/"  # the slash says that a folder is meant, also where nothing lies in it
    return {path: path[len(base) :].split("/") for path, _ in files.walk(base)}


def _entry(folder: str, name: str) -> Entry:
    step = step_of(name)
    assert step is not None
    try:
        return Entry(name, step, read(files.join(folder, name)).serial)
    except (Unreadable, UserError):
        return Entry(name, step, None)  # or of a newer format: whoever loads it will hear, and nobody deletes it
    except Damaged as error:
        return Entry(name, step, None, str(error))


def seal(manifest: Manifest) -> bytes:
    """The manifest as a file, with a checksum of itself."""
    value = {
        "format": FORMAT,
        "step": manifest.step,
        "serial": manifest.serial,
        "time": round(manifest.time, 3),
        "files": {name: part._asdict() for name, part in manifest.parts.items()},
    }
    return json.dumps({**value, "sha256": _own_sum(value)}, indent=1).encode("ascii")


def read(folder: str) -> Manifest:
    """The manifest of a checkpoint folder; `Damaged` if it is missing or not whole."""
    try:
        value = json.loads(files.read_bytes(files.join(folder, MANIFEST)))
        stated, whole = value["format"], value.pop("sha256") == _own_sum(value)
        if whole and stated != FORMAT:
            raise UserError(
                f"this checkpoint is of the format {stated!r}, which this tfgpt does not know",
                where=folder,
                fix="pip install --upgrade tfgpt",
            )
        if not whole:
            raise ValueError
        parts = {name: Part(**part) for name, part in value["files"].items()}
        return Manifest(value["step"], value["serial"], value["time"], parts)
    except FileNotFoundError as error:
        empty = not files.is_remote(folder) and os.path.isdir(folder) and not os.listdir(folder)
        raise Damaged("the folder is empty" if empty else f"{MANIFEST} is missing") from error
    except OSError as error:
        raise Unreadable(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{MANIFEST} is damaged") from error


def read_part(folder: str, name: str, part: Part, advance: Callable[[int], object] = int) -> np.ndarray:
    """All bytes of one file of a checkpoint as uint8, compared with what the manifest states; `Damaged` if they differ.

    `advance` is told how many bytes have come in, for a progress bar.
    """
    path = files.join(folder, *name.split("/"))
    try:
        check_size(folder, name, part)
        content, digest, done = np.empty(part.bytes, np.uint8), hashlib.sha256(), 0
        with files.open_read(path) as stream:
            while done < part.bytes:
                piece = content[done : done + PIECE].data
                count = stream.readinto(piece)  # type: ignore[attr-defined]
                if not count:
                    raise Damaged(f"{name} is {part.bytes - done} bytes short")
                digest.update(piece[:count])
                done += count
                advance(count)
    except FileNotFoundError as error:
        raise Damaged(f"{name} is missing") from error
    except OSError as error:
        raise Unreadable(f"{name} cannot be read: {error.strerror}") from error
    if digest.hexdigest() != part.sha256:
        raise Damaged(f"{name} differs from its checksum")
    return content


def check_size(folder: str, name: str, part: Part) -> None:
    """`Damaged` if the file is missing, or longer or shorter than the manifest states."""
    try:
        more = files.size(files.join(folder, *name.split("/"))) - part.bytes
    except FileNotFoundError as error:
        raise Damaged(f"{name} is missing") from error
    if more:
        raise Damaged(f"{name} is {abs(more)} byte{'s' * (abs(more) != 1)} {'too long' if more > 0 else 'short'}")


def _own_sum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
