"""Writing one checkpoint so that it is there whole or not at all, whatever happens to the process or the machine."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfgpt import files, tensors
from tfgpt.errors import UserError
from tfgpt.training import manifest
from tfgpt.training.manifest import Manifest, Part

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Content(NamedTuple):
    """What one checkpoint holds: arrays, and small files that are bytes already."""

    step: int
    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    small: dict[str, bytes]

    def bytes(self) -> int:
        """Room that it needs on the disk."""
        # 64 KiB for the manifest and for what a file system spends on a folder.
        return (
            tensors.size(self.weights) + tensors.size(self.optimizer) + sum(map(len, self.small.values())) + (64 << 10)
        )


def content(
    step: int,
    weights: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
    *,
    state: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer_files: Mapping[str, bytes] | None,
) -> Content:
    """Gather a checkpoint; what cannot be kept is a TypeError or ValueError here, before anything is written."""
    assert state.get("step", step) == step, "the state belongs to another step"
    small = {manifest.CONFIG: _json(dict(config)), manifest.STATE: _json({**state, "step": step})}
    for name, data in (tokenizer_files or {}).items():
        files.join("tokenizer", name)  # refuses names that lead out of the folder
        small[f"tokenizer/{name}"] = bytes(data)
    tensors.header(weights), tensors.header(optimizer)
    return Content(step, weights, optimizer, small)


def write(folder: str, name: str, serial: int, what: Content) -> int:
    """Write `what` as the checkpoint `name` (which must not exist yet) of `folder`; returns its bytes.

    Locally everything goes into a hidden folder that is renamed when all of it is on the disk. A bucket cannot rename:
    there the manifest, written last, is what makes the rest a checkpoint.
    """
    return (_write_remote if files.is_remote(folder) else _write_local)(folder, name, serial, what)


def require_room(folder: str, what: Content) -> None:
    """OSError before the first byte, if the disk cannot hold `what`: a disk filled to the brim harms everybody on it."""
    free = _free(folder)
    if free is not None and free < what.bytes():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def failed(folder: str, what: Content, error: Exception) -> dict[str, Any]:
    """The event that tells of a save that came to nothing; sizes in bytes, `free` None where nobody can say."""
    needed, free = what.bytes(), _free(folder)
    said = words(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        said += f": {needed / 1e6:.1f} MB needed" + ("" if free is None else f", {free / 1e6:.1f} MB free")
    return {"event": "save_failed", "step": what.step, "path": folder, "what": said, "needed": needed, "free": free}


def words(error: Exception) -> str:
    """An error in one line, for a log."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)) + (f" ({error.filename})" if error.filename else "")
    said = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return said.splitlines()[0]


def _free(folder: str) -> int | None:
    try:
        return None if files.is_remote(folder) else shutil.disk_usage(folder).free
    except OSError:
        return None


def _write_local(folder: str, name: str, serial: int, what: Content) -> int:
    temporary = os.path.join(folder, f".{name}.tmp-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        os.mkdir(temporary)
        parts = {}
        for file, pieces in _files(what):
            path = os.path.join(temporary, *file.split("/"))
            if "/" in file:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            parts[file] = _write_file(path, pieces)
        sealed = _seal(what, serial, parts)
        _write_file(os.path.join(temporary, manifest.MANIFEST), [sealed])
        for place, _, _ in os.walk(temporary, topdown=False):
            files.sync_folder(place)
        os.rename(temporary, os.path.join(folder, name))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.sync_folder(folder)
    return sum(part.bytes for part in parts.values()) + len(sealed)


def _write_file(path: str, pieces: Iterable[bytes | memoryview]) -> Part:
    with open(path, "xb") as stream:
        part = _copy(pieces, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return part


def _write_remote(folder: str, name: str, serial: int, what: Content) -> int:
    base = files.join(folder, name)
    written: list[str] = []
    try:
        parts = {}
        for file, pieces in _files(what):
            written.append(files.join(base, *file.split("/")))
            with files.atomic_writer(written[-1]) as stream:
                parts[file] = _copy(pieces, stream)  # type: ignore[arg-type]
        sealed = _seal(what, serial, parts)
        files.write_bytes(files.join(base, manifest.MANIFEST), sealed)
    except BaseException:
        for path in written:
            with suppress(Exception):
                files.remove(path)
        raise
    return sum(part.bytes for part in parts.values()) + len(sealed)


def _files(what: Content) -> Iterable[tuple[str, Iterable[bytes | memoryview]]]:
    yield manifest.WEIGHTS, tensors.pieces(what.weights)
    yield manifest.OPTIMIZER, tensors.pieces(what.optimizer)
    for name, data in what.small.items():
        yield name, [data]


def _copy(pieces: Iterable[bytes | memoryview], stream: BinaryIO) -> Part:
    """Write `pieces`, taking their sha256 on the way: nothing has to be read back."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        stream.write(piece)
        digest.update(piece)
        size += len(piece)
    return Part(size, digest.hexdigest())


def _seal(what: Content, serial: int, parts: dict[str, Part]) -> bytes:
    return manifest.seal(Manifest(what.step, serial, time.time(), parts))


def _json(value: dict[str, Any]) -> bytes:
    # repr of a float, which json writes, gives the same float back.
    return json.dumps(value, indent=1, ensure_ascii=False, default=_plain).encode("utf-8")


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be kept in a checkpoint's JSON")
