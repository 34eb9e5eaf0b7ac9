"""Which models are in memory: loaded when they are asked for, gone by least recent use, never while somebody is being answered.

Whoever is answered holds a lease on the one process that does it, from the first to the last token: an answer is of one set
of weights. A model that has to go takes no new leases, so that a busy one cannot keep another waiting for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tfgpt import files
from tfgpt.errors import UserError
from tfgpt.serving.settings import ModelSettings, ServerSettings
from tfgpt.serving.worker import Worker
from tfgpt.training import restoring
from tfgpt.training.manifest import Damaged, entries, read

RUNTIME = 700_000_000  # of a process, beside its model
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


class Registry:
    """The models of a server. All methods belong to the event loop's thread."""

    def __init__(self, settings: ServerSettings, say: Callable[[str], None]) -> None:
        self.settings, self._say = settings, say
        self.models = {model.key: Model(model) for model in settings.models}
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.budget = int(settings.memory * 1e9) if settings.memory else int(0.8 * total)
        self.swaps = 0
        self._changed = asyncio.Condition()
        self._queue: deque[str] = deque()  # keys that are to be loaded, in order
        self._spare: Worker | None = None
        self._old: set[Worker] = set()  # of former checkpoints, until their last answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

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
        workers = [model.worker for model in self.models.values() if model.worker] + list(self._old)
        await asyncio.gather(*(worker.close() for worker in [*workers, *([self._spare] if self._spare else [])]))

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
                        model.worker, model.leaving = worker, False
                        model.size = worker.memory
                        self.swaps += 1
            except Exception as error:
                model.error = error
                self._say(f"{key} could not be loaded: {error}")
            async with self._changed:
                self._queue.remove(key)
                self._changed.notify_all()

    async def _loaded(self, model: Model) -> Worker:
        started, settings = time.monotonic(), model.settings
        worker, self._spare = self._spare or Worker(self._lost), None
        try:
            worker.fingerprint = await asyncio.to_thread(fingerprint, settings.folder)
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
                if not self._closing:
                    self._say(f"the process of {model.settings.key} has ended")
                model.worker, model.leaving = None, False
        if worker is self._spare:
            self._spare = None
        if not self._closing:
            self._begin(self._tell())

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
                try:
                    now = await asyncio.to_thread(fingerprint, model.settings.folder)
                    if now == current.fingerprint:
                        continue
                    worker = await self._loaded(model)  # the new one is ready before the old one goes
                except (UserError, OSError) as error:
                    self._say(f"{model.settings.key}: the newer checkpoint is left alone: {error}")
                    continue
                old, model.worker = model.worker, worker
                if old is not None:
                    self._begin(self._end(old))

    async def _end(self, worker: Worker) -> None:
        """Close a process that belongs to no model any more, after its last answer."""
        self._old.add(worker)
        async with self._changed:
            await self._changed.wait_for(lambda: worker.leases == 0)
        await worker.close()
        self._old.discard(worker)


def fingerprint(folder: str) -> str:
    """Twelve letters that change whenever the weights do."""
    found: Any = None
    try:
        place = restoring.find(folder)
        path = place.folder
        if not place.alone:
            for entry in reversed(entries(place.folder)):
                path = files.join(place.folder, entry.name)
                break
        found = read(path).parts["weights.safetensors"].sha256
    except (UserError, Damaged):
        found = sorted((path, size, os.stat(path).st_mtime_ns) for path, size in files.walk(folder))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:12]


def weight_bytes(folder: str) -> int:
    """Bytes of the largest file of a model: its weights, about."""
    return max((size for _, size in files.walk(folder)), default=0)
