"""The server's end of a model's process: texts go in, and their pieces come back into the event loop."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tfgpt.serving import child
from tfgpt.serving.faults import Ended

CONTEXT = multiprocessing.get_context("spawn")
_numbers = itertools.count()


@dataclass(frozen=True)
class Piece:
    """What one token brought; the last one has the reason why the text ends."""

    text: str
    token: int | None
    logprob: float | None
    finish: str | None


ABORTED = Piece("", None, None, "abort")


@dataclass
class Writing:
    """One text that a model is asked for. Its pieces come out of `async for`; leaving that loop early is what `cancel` is for."""

    prompt: str | list[int]
    options: dict[str, Any]
    sample: int = 0
    number: int = field(default_factory=lambda: next(_numbers))
    prompt_tokens: int = 0
    tokens: int = 0
    finished: bool = False
    aborted: bool = False
    _pieces: asyncio.Queue[Piece | Exception | None] = field(default_factory=asyncio.Queue)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while True:
            piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                return
            yield piece

    def put(self, piece: Piece | Exception | None) -> None:
        """For the worker."""
        self._pieces.put_nowait(piece)


class Worker:
    """A process that holds one model, or none yet. All methods belong to the event loop's thread."""

    def __init__(self, on_end: Callable[[Worker], None]) -> None:
        self.about: dict[str, Any] = {}
        self.fingerprint = ""
        self.leases = 0  # requests that are being answered by it
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._writings: dict[int, Writing] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        ours, theirs = CONTEXT.Pipe()
        self._connection = ours
        self._process = CONTEXT.Process(target=child.main, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._foreseen = 0
        self._closed = False
        self._why = ""
        self._since = time.monotonic()
        # A pipe that is full, as with a long prompt during a long step, must not hold up the event loop.
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        for work in (self._listen, self._speak):
            threading.Thread(target=work, daemon=True).start()

    @property
    def memory(self) -> int:
        """Bytes that the process holds, or will hold once all of its slots are full."""
        try:
            with open(f"/proc/{self._process.pid}/status") as status:
                held = next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS")), 0)
        except OSError:
            return 0
        return max(held, self._foreseen)

    @property
    def alive(self) -> bool:
        """Whether texts can still come of it."""
        return not self._closed

    @property
    def running(self) -> bool:
        """Whether there is a process, whatever has been heard of it."""
        return self._process.is_alive()

    @property
    def lived(self) -> float:
        """Seconds for which it has had its model; 0 if it has none."""
        return time.monotonic() - self._since if self.about else 0.0

    @property
    def why(self) -> str:
        """What it said before it ended, if anything."""
        return self._why

    async def load(self, folder: str, **how: Any) -> None:
        """Make it the process of this model; raises what is wrong with the model."""
        self._send(("load", folder, how))
        await self._ready

    def add(self, writing: Writing) -> None:
        """Begin a text."""
        if self._closed:
            writing.put(self._ended())
            return
        self._writings[writing.number] = writing
        self._send(("add", writing.number, writing.prompt, writing.options, writing.sample))

    def cancel(self, writing: Writing) -> None:
        """Let go of a text, before its next token."""
        if self._writings.pop(writing.number, None) is not None and not self._closed:
            self._send(("cancel", writing.number))

    def abort(self, writing: Writing) -> None:
        """Let a text end before its next token, as it stands."""
        if writing.number in self._writings and not self._closed:
            writing.aborted = True
            self._send(("cancel", writing.number))

    async def close(self) -> None:
        """End the process; what it was still writing fails."""
        self._send(("stop",))
        if not self.about:
            self._process.kill()  # it listens only when it has its model, and there is nothing to be lost
        await asyncio.to_thread(self._process.join, 10)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)

    def _send(self, message: tuple[Any, ...] | None) -> None:
        self._outbox.put(message)

    def _speak(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                pass  # it has died, which _listen hears of as well
        self._connection.close()

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                break
            self._loop.call_soon_threadsafe(self._take, message)
        self._send(None)
        try:
            self._loop.call_soon_threadsafe(self._lost)
        except RuntimeError:
            pass  # the loop has ended before

    def _take(self, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "pieces":
            for number, *what in rest[0]:
                if (writing := self._writings.get(number)) is not None:
                    piece = Piece(*what)
                    writing.tokens += piece.token is not None
                    writing.finished = piece.finish is not None
                    writing.put(piece)
        elif kind == "ended":
            number, facts = rest
            if (writing := self._writings.pop(number, None)) is not None:
                writing.prompt_tokens, writing.tokens = facts["prompt_tokens"], facts["tokens"]
                if writing.aborted and not writing.finished and facts["error"] is None:
                    writing.put(ABORTED)
                writing.put(facts["error"])
        elif kind == "refused":
            number, error = rest
            if (writing := self._writings.pop(number, None)) is not None:
                writing.put(error)
        elif kind == "broken":
            (self._why,) = rest
            self._process.kill()
            self._lost()
        elif kind == "ready" and not self._ready.done():
            self._foreseen = self.memory + rest[0]["growth"]
            self.about, self._since = rest[0], time.monotonic()
            self.fingerprint = self.about["fingerprint"]
            self._ready.set_result(None)
        elif kind == "failed" and not self._ready.done():
            self._ready.set_exception(rest[0])

    def _lost(self) -> None:
        if self._closed:
            return  # it said so before it ended
        self._closed = True
        if not self._ready.done():
            self._ready.set_exception(self._ended())
            self._ready.exception()  # nobody may be waiting for it any more
        for writing in self._writings.values():
            writing.put(self._ended())
        self._writings.clear()
        self._on_end(self)

    def _ended(self) -> Ended:
        why = f" in a step: {self._why}" if self._why else ""
        return Ended(f"the process of this model has ended{why}", fix="ask again: it is started anew")
