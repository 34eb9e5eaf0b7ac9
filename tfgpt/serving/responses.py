"""The shapes of HTTP answers: JSON, errors with a status, and streams that let go of everything when the reader leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tfgpt.errors import Failure, UserError
from tfgpt.serving.answering import Busy, TooLate, Unknown
from tfgpt.serving.asking import LARGEST, TooLarge
from tfgpt.serving.faults import Broken

T = TypeVar("T")
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error",
         408: "invalid_request_error",
         429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error"}  # fmt: skip


class Gone(Exception):
    """The client has left; there is nobody to answer."""


class Slow(UserError):
    """What was to come did not come in time."""


STATUS = {Busy: 429, Unknown: 404, TooLarge: 413, TooLate: 503, Slow: 408, Broken: 500, Failure: 503, UserError: 400}


def error_body(status: int, said: str, where: str | None = None) -> dict[str, Any]:
    """An error in the form that OpenAI's clients read."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": said, "type": kind, "param": where, "code": None}}


def refusal(error: Exception) -> Response:
    """An error as JSON, in the form that OpenAI's clients read."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    if isinstance(error, Busy) and error.fix.startswith("ask another"):
        status = 503
    said = str(error) if isinstance(error, UserError) else f"the server made a mistake: {type(error).__name__}"
    headers = {"Retry-After": str(getattr(error, "after", 1))} if status in (429, 503) else {}
    headers |= {"Connection": "close"} if status == 408 else {}
    body = error_body(status, said, getattr(error, "where", "") or None)
    return JSONResponse(body, status_code=status, headers=headers)


async def body_of(request: Request, patience: float) -> bytes:
    """The request's body; one that is too large is not even read to its end."""
    found = bytearray()

    async def read() -> None:
        async for part in request.stream():
            found.extend(part)
            if len(found) > LARGEST:
                raise TooLarge(f"a request has at most {LARGEST >> 20} MiB", where="body")

    try:
        await asyncio.wait_for(read(), patience)
    except asyncio.TimeoutError:
        raise Slow(f"the body did not come within {patience:g} seconds", where="body") from None
    except ClientDisconnect:
        raise Gone from None
    return bytes(found)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client leaves. The body must have been read."""
    task, watcher = asyncio.ensure_future(work), asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class Events(Response):
    """Server-sent events. `stack` holds all that the stream needs, and is closed however it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Any], stack: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(headers=headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._stack = events, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all is sent or the reader has gone."""
        async with self._stack:
            task, watcher = asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))
            try:
                await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watcher.cancel()
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) and not isinstance(error, OSError):
                raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await self._data(send, json.dumps(event, ensure_ascii=False))
        except Exception as error:
            await self._data(send, bytes(refusal(error).body).decode())  # the status has been sent long ago
        await self._data(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _data(self, send: Send, text: str) -> None:
        await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
