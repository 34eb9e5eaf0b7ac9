"""The server as a process: its socket, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from tfgpt.errors import Failure
from tfgpt.serving.app import Server
from tfgpt.serving.settings import ServerSettings


class _Uvicorn(uvicorn.Server):
    """Says where it listens, and takes no new texts from the moment that it is told to end."""

    def __init__(self, config: uvicorn.Config, server: Server, where: str) -> None:
        super().__init__(config)
        self._tfgpt, self._where = server, where

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tfgpt.say(f"serving on {self._where}")

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._tfgpt.answering.draining = True
        super().handle_exit(sig, frame)


def serve(settings: ServerSettings, *, grace: float) -> int:
    """Serve until SIGTERM or Ctrl-C; texts that are being written then have `grace` seconds to end."""
    server = Server(settings)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
        lifespan="on",
    )
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    running = _Uvicorn(config, server, f"http://{host}:{listening.getsockname()[1]}")
    try:
        asyncio.run(running.serve([listening]))
    except KeyboardInterrupt:
        pass  # uvicorn gives the signal on when all has ended
    return 0
