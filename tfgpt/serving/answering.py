"""From an `Ask` to its texts: a place in the queue, a lease of the model, and pieces until the text or the patience ends."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tfgpt.errors import UserError, nearest
from tfgpt.serving.asking import Ask
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.registry import Model, Registry
from tfgpt.serving.worker import Piece, Worker, Writing

T = TypeVar("T")


class Busy(UserError):
    """The queue is full; `after` says when to come again, in seconds."""

    after = 1


class Unknown(UserError):
    """There is no model of that name."""


class TooLate(UserError):
    """The deadline of the request has passed."""


@dataclass
class Text:
    """One finished text."""

    prompt_tokens: int
    tokens: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self) -> str:
        """In the words of OpenAI's clients."""
        return reason(self.pieces[-1]) or "stop"


@dataclass(eq=False)
class Session:
    """An ask that is being answered; `writings` are the texts in order, those of one prompt beside each other."""

    ask: Ask
    model: Model
    worker: Worker
    writings: list[Writing]
    deadline: float
    metrics: Metrics
    began: float

    async def each(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all texts as they come, with the number of their text."""
        queue: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

        async def follow(number: int, writing: Writing) -> None:
            try:
                async for piece in writing:
                    queue.put_nowait((number, piece))
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(follow(i, writing)) for i, writing in enumerate(self.writings)]
        left, last = len(tasks), self.began
        patience = max(0.0, self.deadline - time.monotonic())
        end = asyncio.get_running_loop().call_later(patience, queue.put_nowait, _too_late())
        try:
            while left:
                found = await queue.get()
                if isinstance(found, Exception):
                    raise found
                if found is None:
                    left -= 1
                    continue
                now = time.monotonic()
                name = "tfgpt_first_token_seconds" if last == self.began else "tfgpt_token_seconds"
                self.metrics.observe(name, now - last)
                last = now
                yield found
        finally:
            end.cancel()
            for task in tasks:
                task.cancel()

    async def whole(self) -> list[Text]:
        """All texts, when they are finished."""
        pieces: list[list[Piece]] = [[] for _ in self.writings]
        async for number, piece in self.each():
            pieces[number].append(piece)
        return [Text(w.prompt_tokens, w.tokens, found) for w, found in zip(self.writings, pieces, strict=True)]

    def abort(self) -> None:
        """End all of its texts as they stand."""
        for writing in self.writings:
            self.worker.abort(writing)

    def counts(self) -> tuple[int, int]:
        """Tokens of the prompts, each prompt once, and of what was written."""
        return sum(w.prompt_tokens for w in self.writings[:: self.ask.n]), sum(w.tokens for w in self.writings)


class Answering:
    """The bounded queue before all models."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self.registry, self.metrics = registry, metrics
        self.waiting = 0  # texts that have a place
        self._sessions: set[Session] = set()

    @asynccontextmanager
    async def session(self, ask: Ask) -> AsyncIterator[Session]:
        """The ask, begun; leaving the context lets go of all of it, wherever it is by then."""
        settings, began = self.registry.settings, time.monotonic()
        deadline, count = began + settings.deadline, ask.n * len(ask.prompts)
        key = self.key(ask.key)
        if self.registry.draining:
            raise _ending()
        if self.waiting + count > settings.queue + settings.slots:
            error = Busy(
                f"{self.waiting} texts are being written or waiting, and no more are taken", fix="ask again later"
            )
            error.after = 1 + self.waiting // settings.slots
            raise error
        self.waiting += count
        try:
            lease = self.registry.lease(key)
            model, worker = await within(deadline, lease.__aenter__(), undo=lambda: lease.__aexit__(None, None, None))
            writings: list[Writing] = []
            try:
                seed = ask.options.get("seed")
                options = ask.options | {"seed": secrets.randbelow(2**31) if seed is None else seed}
                writings = [Writing(prompt, options, number) for prompt in ask.prompts for number in range(ask.n)]
                for writing in writings:
                    worker.add(writing)
                session = Session(ask, model, worker, writings, deadline, self.metrics, began)
                self._sessions.add(session)
                try:
                    yield session
                finally:
                    self._sessions.discard(session)
            finally:
                for writing in writings:
                    worker.cancel(writing)
                self.metrics.count("tfgpt_prompt_tokens_total", sum(w.prompt_tokens for w in writings), model=key)
                self.metrics.count("tfgpt_generated_tokens_total", sum(w.tokens for w in writings), model=key)
                await asyncio.shield(lease.__aexit__(None, None, None))
        finally:
            self.waiting -= count

    def drain(self) -> None:
        """Take no new texts; those that are being written go on."""
        self.registry.draining = True

    def abort(self) -> None:
        """End every text as it stands, and send away who has not even begun."""
        self.drain()
        for session in self._sessions:
            session.abort()
        self.registry.give_up(_ending())

    def key(self, name: str) -> str:
        """The model of that name; the only one, or the first, where none is named."""
        keys = list(self.registry.models)
        if not name:
            return keys[0]
        if name not in keys:
            raise Unknown(
                f'there is no model "{name:.80}"', where="model", nearest=nearest(name[:80], keys) or ", ".join(keys)
            )
        return name


def reason(piece: Piece) -> str | None:
    """Why a text ends, in the words of OpenAI's clients."""
    return {None: None, "length": "length", "abort": "abort"}.get(piece.finish, "stop")


async def within(deadline: float, what: Awaitable[T], *, undo: Callable[[], Awaitable[object]] | None = None) -> T:
    """The result, if it is there in time; `undo` takes it back if it comes when nobody wants it any more.

    Not asyncio.wait_for, which forgets that it was cancelled if the result comes at the same moment (before Python 3.12).
    """
    task = asyncio.ensure_future(what)
    try:
        await asyncio.wait({task}, timeout=max(0.001, deadline - time.monotonic()))
        if task.done():
            return task.result()
    except asyncio.CancelledError:
        await _given_up(task, undo)
        raise
    await _given_up(task, undo)
    raise _too_late()


async def _given_up(task: asyncio.Future[T], undo: Callable[[], Awaitable[object]] | None) -> None:
    task.cancel()
    await asyncio.wait({task})
    if undo is not None and not task.cancelled() and task.exception() is None:
        await undo()


def _ending() -> Busy:
    return Busy("this server is about to end", fix="ask another one, or this one in a moment")


def _too_late() -> TooLate:
    return TooLate("the deadline of this request has passed", fix="ask for less, or raise deadline")
