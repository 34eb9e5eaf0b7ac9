"""Connections that do not hold anything for ever: who sends or reads nothing in time is let go of.

uvicorn itself waits as long as a client likes for a request's headers, and for a reader of what was written.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from tfgpt.serving.responses import error_body


class Patient(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with `patience` seconds for a request's headers, and for a reader to take something."""

    def __init__(self, *args: Any, patience: float, **more: Any) -> None:
        super().__init__(*args, **more)
        self._patience = patience
        self._headers: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come, and has something to ask."""
        super().connection_made(transport)
        self._headers = self._later(self._no_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody has gone."""
        for timer in (self._headers, self._reader):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request: the time of its headers runs from their first byte, however the others come."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            if self._headers is not None:
                self._headers.cancel()
            self._headers = None
        elif self._headers is None:
            self._headers = self._later(self._no_headers)

    def pause_writing(self) -> None:
        """The buffers are full: the reader has as long as a writer has."""
        super().pause_writing()
        if self._reader is None:
            self._reader = self._later(self.abort)

    def resume_writing(self) -> None:
        """The reader has taken something."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
        self._reader = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while. A close waits for the last bytes to be taken, which may never happen."""
        super().timeout_keep_alive_handler()
        if self._reader is None:
            self._reader = self._later(self.abort)

    def abort(self) -> None:
        """Close now, whatever has not been taken; the application hears that the client has left."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the form of all other errors."""
        self._refuse(400, "Bad Request", msg)

    def _no_headers(self) -> None:
        self._refuse(408, "Request Timeout", f"the headers did not come within {self._patience:g} seconds")

    def _refuse(self, status: int, phrase: str, said: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.abort()  # in the midst of an answer nothing else can be said
            return
        body = json.dumps(error_body(status, said)).encode()
        head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()
        self._reader = self._reader or self._later(self.abort)

    def _later(self, what: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(self._patience, what)
