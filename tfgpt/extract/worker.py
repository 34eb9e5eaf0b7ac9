"""One worker process: takes a page, finds its text, writes the file, answers; and ends when its parent does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import IO, Any

from tfgpt.errors import UserError
from tfgpt.extract import engines, journal, pages, wire

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")


def main() -> None:
    """Serve the parent until it closes our standard input."""
    # Engines may read standard input or print; the pipes to the parent are kept out of their reach.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    warnings.simplefilter("ignore")
    first = wire.receive(requests)
    if first is None:
        return
    settings = first[0]
    _end_with(settings["parent"])
    _bound_memory(settings["max_memory"])
    try:
        engine = engines.build(settings["engine"], settings["language"])
    except UserError as error:
        return wire.send(
            replies, {"error": [error.what, error.where, error.nearest, error.fix], "exit_code": error.exit_code}
        )
    except Exception as error:
        what = f"the engine {settings['engine']} does not start: {type(error).__name__}: {error}"
        return wire.send(replies, {"error": [what, "", "", 'pip install --upgrade "tfgpt[extract]"'], "exit_code": 1})
    os.dup2(nowhere, 2)
    sys.addaudithook(_refuse_network)
    wire.send(replies, {"ready": True})
    _serve(requests, replies, engine, settings)


def _serve(requests: IO[bytes], replies: IO[bytes], engine: engines.Engine, settings: dict[str, Any]) -> None:
    while (request := wire.receive(requests)) is not None:
        header, data = request
        _arm(2 * settings["timeout"] + 5)
        text, reply = "", {"outcome": journal.EMPTY, "reason": ""}
        try:
            text = engine(pages.decoded(data)).strip()
        except pages.NoPage as error:
            reply = {"outcome": journal.FAILED, "reason": str(error)}
        except BaseException as error:  # a page must not end the worker: RecursionError, MemoryError, SystemExit, ...
            reply = {"outcome": journal.FAILED, "reason": f"{type(error).__name__}: {str(error)[:200]}"}
        if len(text) >= max(settings["min_characters"], 1):
            try:
                store(text, Path(header["target"]), Path(settings["scratch"]))
                reply = {"outcome": journal.KEPT, "reason": ""}
            except OSError as error:
                reply = {"stop": f"cannot write: {error.strerror or error}"}
        _arm(0)
        wire.send(replies, reply)


def store(text: str, target: Path, scratch: Path) -> None:
    """Write `text` to `target`, whole or not at all.

    Not files.atomic_writer: what a kill leaves behind must lie in one small folder that the next run can sweep,
    not among millions of texts; and the folder is synchronised once for a chunk of pages, before the journal names them.
    """
    temporary = scratch / str(os.getpid())
    with open(temporary, "wb") as stream:
        stream.write(text.encode("utf-8", "replace"))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, target)


def _end_with(parent: int) -> None:
    """End soon after the parent, even when it was killed and could say nothing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _arm(seconds: float) -> None:
    # The parent keeps the time of a page; this is for a page that hangs inside C code, where no thread of ours can
    # run, after the parent is gone: the kernel's own answer to an alarm ends the process.
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _bound_memory(amount: int) -> None:
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    except (OSError, ValueError):
        # macOS knows the limit by name but does not take every value for it.
        pass
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in NETWORK:
        raise OSError("no network while extracting")
