"""One writer a folder: a lock that the operating system takes back by itself when its holder dies."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfgpt.errors import UserError


@contextmanager
def folder_lock(path: Path, *, purpose: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; a second process gets an error that names the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not take(descriptor):
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            raise UserError(
                f"{purpose} is already running in this folder, by {holder}",
                where=str(path.parent),
                fix="wait for it, stop it, or choose another folder",
            )
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            # Its holder finished and cleaned up between our opening and our taking it: ours is a lock on nothing.
            raise UserError(
                f"{purpose} has just ended in this folder", where=str(path.parent), fix="run the command again"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)  # closing gives the lock back


def take(descriptor: int) -> bool:
    """Lock an open file; False if another process holds it. A file system that knows no locks counts as free."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
