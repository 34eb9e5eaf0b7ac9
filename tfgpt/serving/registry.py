"""Which models are in memory: loaded when they are asked for, gone by least recent use, never while somebody is being answered.

Whoever is answered holds a lease on the one process that does it, from the first to the last token: an answer is of one set
of weights. A model that has to go takes no new leases, so that a busy one cannot keep another waiting for ever.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tfgpt import files, machine
from tfgpt.serving import fingerprints
from tfgpt.serving.faults import Ended, Falls
from tfgpt.serving.settings import ModelSettings, ServerSettings
from tfgpt.serving.worker import Worker

RUNTIME = 700_000_000  # of a process, beside its model: with TensorFlow in it, which some models' files need
AGAIN = 60.0  # seconds until a newer checkpoint that was refused is looked at again, if it has not changed before
GROWN = 1.6  # bytes held for a byte of float32 weights, before that has been measured


@dataclass
class Model:
    """One model of the configuration, in memory or not."""

    settings: ModelSettings
    worker: Worker | None = None
    waiting: int = 0  # requests that wait for it to be loaded
    leaving: bool = False  # takes no new leases
    used: float = 0.0  # time of the last lease
    size: int = 0  # bytes when it was loaded last
    error: Exception | None = None
    count: int = 0  # answers
    refused: tuple[str, float] = ("", 0.0)  # fingerprint of a newer checkpoint that was no good, and when
    falls: Falls = field(default_factory=Falls)


class Registry:
    """The models of a server. All methods belong to the event loop's thread."""

    def __init__(self, settings: ServerSettings, say: Callable[[str], None]) -> None:
        self.settings, self._say = settings, say
        self.models = {model.key: Model(model) for model in settings.models}
        self.budget = int(settings.memory * 1e9 if settings.memory else 0.8 * (machine.memory() or sys.maxsize))
        self.swaps = 0
        self._changed = asyncio.Condition()
        self._queue: deque[str] = deque()  # keys that are to be loaded, in order
        self._spare: Worker | None = None
        self._old: set[Worker] = set()  # of former checkpoints, until their last answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.draining = False  # takes up nothing new

    async def start(self) -> None:
        """Begin to load what is asked for."""
        self._spare = Worker(self._lost)
        self._begin(self._load_what_is_wanted())
        if self.settings.reload:
            self._begin(self._look_for_newer())

    async def close(self) -> None:
        """End all processes."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # what was being loaded is closed by who loaded it
        workers = [model.worker for model in self.models.values() if model.worker] + list(self._old)
        await asyncio.gather(*(worker.close() for worker in [*workers, *([self._spare] if self._spare else [])]))

    def give_up(self, error: Exception) -> None:
        """Nobody gets a lease any more who has none: all who wait hear `error`."""
        self._closing = True
        for model in self.models.values():
            if model.waiting and (model.worker is None or model.leaving):
                model.error = error
        self._begin(self._tell())

    @property
    def down(self) -> list[str]:
        """Models whose process has ended by itself, until they are there again."""
        return [key for key, model in self.models.items() if model.falls.down]

    @property
    def memory(self) -> int:
        """Bytes of all processes of models."""
        workers = [model.worker for model in self.models.values()]
        return sum(worker.memory for worker in [*workers, *self._old, self._spare] if worker)

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[tuple[Model, Worker]]:
        """The model's process for as long as the context lasts; loads it if need be. KeyError for an unknown key."""
        model = self.models[key]
        async with self._changed:
            model.waiting += 1
            try:
                while model.worker is None or model.leaving:
                    if model.worker is None and model.falls.left:
                        raise model.falls.resting(key)
                    model.error = None
                    if key not in self._queue:
                        self._queue.append(key)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: (model.worker and not model.leaving) or model.error)
                    if model.error is not None:
                        raise model.error
                worker = model.worker
                worker.leases += 1
                model.used = time.monotonic()
            finally:
                model.waiting -= 1
                self._changed.notify_all()
        try:
            yield model, worker
        finally:
            async with self._changed:
                worker.leases -= 1
                model.count += 1
                self._changed.notify_all()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # or nobody would hold it
        task.add_done_callback(self._tasks.discard)

    async def _load_what_is_wanted(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._queue)
                key = self._queue[0]
                model = self.models[key]
                await self._changed.wait_for(lambda model=model: not model.leaving)
            try:
                if model.worker is None:
                    await self._make_room(model)
                    worker = await self._loaded(model)
                    async with self._changed:
                        self._take_over(model, worker)
                        model.leaving, model.size = False, worker.memory
            except Exception as error:
                model.error = error
                self._say(f"{key} could not be loaded: {error}")
                if isinstance(error, Ended) or model.falls.down:
                    self._fell(model, 0.0)
            async with self._changed:
                self._queue.remove(key)
                self._changed.notify_all()

    async def _loaded(self, model: Model) -> Worker:
        started, settings = time.monotonic(), model.settings
        ready = self._spare is not None and self._spare.running  # or its end has not been heard of yet
        worker, self._spare = self._spare if ready and self._spare else Worker(self._lost), None
        try:
            how = {"dtype": settings.dtype, "slots": self.settings.slots, "tokenizer": settings.tokenizer}
            await worker.load(settings.folder, **how)
        except BaseException:
            await worker.close()
            raise
        finally:
            if not self._closing:
                self._spare = Worker(self._lost)
        seconds = time.monotonic() - started
        self._say(f"{settings.key}: {worker.about['about']}; loaded in {seconds:.1f} s, {worker.memory / 1e6:.0f} MB")
        return worker

    async def _make_room(self, model: Model) -> None:
        needed = model.size or RUNTIME + int(GROWN * weight_bytes(model.settings.folder))
        while True:
            there = [other for other in self.models.values() if other.worker is not None]
            held = sum(other.worker.memory for other in there if other.worker)
            if held + needed <= self.budget or not there:
                return
            # One that nobody is using just now is better than the one that has not been used for longest.
            await self._retire(
                min(there, key=lambda other: (other.worker is not None and other.worker.leases > 0, other.used))
            )

    async def _retire(self, model: Model) -> None:
        async with self._changed:
            # Whoever it was loaded for has a lease first, or two models might take turns without an answer from either.
            await self._changed.wait_for(lambda: model.waiting == 0)
            model.leaving = True
            await self._changed.wait_for(lambda: model.worker is None or model.worker.leases == 0)
            worker, model.worker = model.worker, None
        if worker is not None:
            await self._end(worker)
        async with self._changed:
            model.leaving = False
            self._changed.notify_all()

    def _lost(self, worker: Worker) -> None:
        """A process has ended, by itself or because it was told to."""
        for model in self.models.values():
            if model.worker is worker:
                leaving, model.worker, model.leaving = model.leaving, None, False
                if not self._closing:
                    self._say(f"the process of {model.settings.key} has ended{worker.why and ': ' + worker.why}")
                    if not leaving:  # or it would take the place of the model that it had to go for
                        self._fell(model, worker.lived)
        if worker is self._spare:
            self._spare = None
        if not self._closing:
            self._begin(self._tell())

    def _fell(self, model: Model, lived: float) -> None:
        pause = model.falls.add(lived)
        if pause:
            self._say(f"{model.settings.key} has fallen {model.falls.row} times in a row; tried again in {pause:.0f} s")
        if not self._closing:
            self._begin(self._start_again(model, pause))

    async def _start_again(self, model: Model, pause: float) -> None:
        await asyncio.sleep(pause)
        async with self._changed:
            # If it is being loaded just now, that may also be the end of the load after which it fell.
            await self._changed.wait_for(lambda: model.settings.key not in self._queue)
            if model.worker is None:
                self._queue.append(model.settings.key)
                self._changed.notify_all()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _look_for_newer(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload)
            for model in self.models.values():
                current = model.worker
                if current is None or model.leaving:
                    continue
                if self.draining:
                    return
                now = ""
                try:
                    now = await asyncio.to_thread(fingerprints.newest, model.settings.folder)
                    if now == current.fingerprint or (now == model.refused[0] and time.monotonic() < model.refused[1]):
                        continue
                    worker = await self._loaded(model)  # the new one is ready before the old one goes
                    if worker.fingerprint != now:
                        model.refused = now, time.monotonic() + AGAIN  # damaged: what was loaded is one before it
                    if worker.fingerprint == current.fingerprint:
                        self._say(f"{model.settings.key}: the newer checkpoint is damaged, and left alone")
                        await worker.close()
                        continue
                    self._take_over(model, worker)
                except Exception as error:
                    model.refused = now, time.monotonic() + AGAIN
                    self._say(f"{model.settings.key}: the newer checkpoint is left alone: {error}")
                await self._tell()

    def _take_over(self, model: Model, worker: Worker) -> None:
        """From here on, this process answers for the model."""
        if not worker.alive:  # it has ended when it was nobody's yet
            raise Ended("the process of this model has ended", fix="ask again: it is started anew")
        old, model.worker, model.falls.down = model.worker, worker, False
        self.swaps += 1
        if old is not None:
            self._begin(self._end(old))

    async def _end(self, worker: Worker) -> None:
        """Close a process that belongs to no model any more, after its last answer."""
        self._old.add(worker)
        async with self._changed:
            await self._changed.wait_for(lambda: worker.leases == 0)
        await worker.close()
        self._old.discard(worker)


def weight_bytes(folder: str) -> int:
    """Bytes of the largest file of a model: its weights, about."""
    return max((size for _, size in files.walk(folder)), default=0)
