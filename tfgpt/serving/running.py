"""The server as a process: its socket, and how it ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from functools import partial
from typing import Any

import uvicorn

from tfgpt.errors import Failure
from tfgpt.serving.app import Server
from tfgpt.serving.patience import Patient
from tfgpt.serving.settings import ServerSettings

BUFFER = 1 << 18  # bytes that the system holds for a reader who takes nothing


class _Uvicorn(uvicorn.Server):
    """Says where it listens, and goes in order: new texts are refused, running ones end, or are ended when the time is up."""

    def __init__(self, config: uvicorn.Config, server: Server, where: str, grace: float) -> None:
        super().__init__(config)
        self._tfgpt, self._where = server, where
        # The last of it is for what was written to reach its readers.
        self._last = min(3.0, grace / 4)
        self._grace = grace - self._last
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tfgpt.say(f"serving on {self._where}")

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A first signal ends it in good order (and with exit code 0, which is why uvicorn's own way is not gone); one more
        ends the texts that are being written as they stand, and a third everything."""
        self._signals += 1
        self.should_exit, self.force_exit = True, self._signals > 2

    async def main_loop(self) -> None:
        """Serve; then go on answering, so that whoever asks is told to go elsewhere, while texts end."""
        await super().main_loop()
        answering, end = self._tfgpt.answering, time.monotonic() + self._grace
        answering.drain()
        while answering.waiting and time.monotonic() < end and self._signals < 2:
            await asyncio.sleep(0.05)
        if answering.waiting:
            self._tfgpt.say(f"{answering.waiting} texts are ended as they stand")
            answering.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Nobody who does not read can hold it up."""
        asyncio.get_running_loop().call_later(self._last, self._close_all)
        await super().shutdown(sockets)

    def _close_all(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(settings: ServerSettings, *, grace: float) -> int:
    """Serve until SIGTERM or Ctrl-C; texts that are being written then have `grace` seconds to end, and to be read."""
    server = Server(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # whoever is let in here has it too
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise Failure(
            f"cannot listen there: {error.strerror}",
            where=f"{settings.host}:{settings.port}",
            fix="choose another --port",
        ) from error
    config = uvicorn.Config(
        server.app(),
        http=partial(Patient, patience=settings.patience),  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
        lifespan="on",
    )
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    running = _Uvicorn(config, server, f"http://{host}:{listening.getsockname()[1]}", grace)
    try:
        asyncio.run(running.serve([listening]))
    except KeyboardInterrupt:
        pass  # before there was anything to end
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # there are some only where nothing was to end in order any more
    return 0
