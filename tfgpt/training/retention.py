"""Which checkpoints stay, and how the others go: only after a newer one is safe, and never half."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress

from tfgpt import files
from tfgpt.training import manifest
from tfgpt.training.manifest import Entry

LEFTOVER = re.compile(r"\.step-\d{8,}(\.\d+)?\.tmp-\d+-[0-9a-f]+|\.trash-[0-9a-f]+-step-\d{8,}(\.\d+)?")


def superfluous(
    found: Sequence[Entry],
    newest: Entry,
    *,
    keep_last: int,
    milestone_steps: int | None = None,
    best: str | None = None,
    bad: Collection[str] = (),
) -> list[Entry]:
    """Which of `found` (oldest first) can go now that `newest` is safely on the disk.

    The newest `keep_last`, the one named `best` and every multiple of `milestone_steps` stay. What goes in any case
    is damaged (`bad`, or without a readable manifest), or was left behind when training went back: steps beyond
    `newest`, and earlier saves of its step.

    >>> found = [Entry(f"step-{step:08}", step, step) for step in (1, 2, 3, 4)]
    >>> [entry.step for entry in superfluous(found, found[-1], keep_last=2, best="step-00000001")]
    [2]
    """
    kept = {newest.name, best}
    useful = [
        entry for entry in found if entry.serial is not None and entry.name not in bad and entry.step < newest.step
    ]
    kept |= {entry.name for entry in useful[max(0, len(useful) - (keep_last - 1)) :]} if keep_last > 1 else set()
    if milestone_steps:
        kept |= {entry.name for entry in useful if entry.step % milestone_steps == 0}
    # Neither a serial nor damage: of a newer format, or not readable just now, and not ours to judge.
    return [entry for entry in found if entry.name not in kept and (entry.serial is not None or entry.what)]


def discard(folder: str, name: str) -> None:
    """Delete a checkpoint; it stops being one in a single moment, and what is left of it after a crash is no checkpoint."""
    if files.is_remote(folder):
        base = files.join(folder, name)
        files.remove(files.join(base, manifest.MANIFEST))
        for path in manifest.objects(base):
            files.remove(path)
        return
    trash = os.path.join(folder, f".trash-{secrets.token_hex(3)}-{name}")
    os.rename(os.path.join(folder, name), trash)
    files.sync_folder(folder)
    shutil.rmtree(trash)


def sweep(folder: str) -> None:
    """Remove what killed processes left: unfinished saves and unfinished deletions. Only for the holder of the run's lock."""
    if files.is_remote(folder):
        parts = manifest.objects(folder)
        whole = {names[0] for names in parts.values() if names[1:] == [manifest.MANIFEST]}
        for path, names in parts.items():
            if len(names) > 1 and manifest.step_of(names[0]) is not None and names[0] not in whole:
                files.remove(path)
        return
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if LEFTOVER.fullmatch(entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)
