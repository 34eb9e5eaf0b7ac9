"""Batches of documents through worker processes and back, in order and with bounded memory.

Each process belongs to one thread of ours, which sends it a batch, waits for the answer and takes the next one. That is all
the machinery there is, so that it can be torn down at any moment: a process that is killed ends its pipe, and a pipe that
ends wakes its thread. (The executor of the standard library may wait for ever for workers that were ended.)
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from tfgpt import tokenizers
from tfgpt.data import documents, ledger, readers, sources
from tfgpt.data.documents import Encoded, Rules
from tfgpt.data.sources import Unit
from tfgpt.errors import Failure
from tfgpt.machine import cores

SMALL_JOB = 4 << 20  # bytes: below this, starting processes takes longer than the work
Position = tuple[int, int]  # unit, batches of it that are done
Step = tuple[Position, int, Encoded]  # where to go on afterwards, bytes of input done, what came of them
Work = Unit | list[readers.Raw]


def encoded_units(
    units: Sequence[Unit], done: Position, output: Path, rules: Rules, processes: int | None
) -> Iterator[Step]:
    """Everything behind `done`, encoded, in unit order whatever the number of processes."""
    processes = processes or cores()
    left = sum(unit.size for unit in units[done[0] :])
    folder = str(output / ledger.TOKENIZER_FOLDER)
    if processes == 1 or left < SMALL_JOB:
        tokenizer = tokenizers.load(folder)
        for position, advance, work in _batches(units, done, rules):
            yield position, advance, _encode(work, tokenizer, rules)
        return
    pool = _Pool(processes, folder, rules)
    try:
        waiting: deque[tuple[Position, int, Future[Encoded]]] = deque()
        for position, advance, work in _batches(units, done, rules):
            waiting.append((position, advance, pool.submit(work)))
            # Two batches a process keep all of them busy, and memory bounded, while the first in line is awaited.
            while len(waiting) > 2 * processes:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        pool.close()


class _Pool:
    """Threads, each with a process of its own."""

    def __init__(self, processes: int, tokenizer_folder: str, rules: Rules) -> None:
        self._settings = (tokenizer_folder, rules)
        self._mine = threading.local()
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._closed = threading.Lock()
        # Left to start by itself, the tracker would unblock the signals that `_start` blocks for the workers.
        resource_tracker.ensure_running()
        self._threads = ThreadPoolExecutor(processes, initializer=self._start)

    def submit(self, work: Work) -> Future[Encoded]:
        """Encode `work` in the first process that is free."""
        return self._threads.submit(self._call, work)

    def close(self) -> None:
        """End everything at once; nothing that a worker still holds is worth waiting for."""
        with self._closed:
            for process in self._processes:
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.join()

    def _start(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Inherited by the process: Ctrl-C reaches the whole group, but the parent alone decides what it means.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._settings), daemon=True)
        with self._closed:
            process.start()
            self._processes.append(process)
        theirs.close()  # or the pipe would not end with the process
        self._mine.connection = ours

    def _call(self, work: Work) -> Encoded:
        try:
            self._mine.connection.send(work)
            answer = self._mine.connection.recv()
        except (EOFError, OSError):
            raise Failure(
                "a worker process died, most likely for want of memory; what was encoded so far is safe",
                fix="run the same command again with fewer --processes",
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[no-any-return]


def _serve(connection: Connection, tokenizer_folder: str, rules: Rules) -> None:
    """The life of a worker process; it ends with its pipe, that is, also when the parent was killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        tokenizer = tokenizers.load(tokenizer_folder)
        while True:
            work = connection.recv()
            try:
                answer: Encoded | Exception = _encode(work, tokenizer, rules)
            except Exception as error:
                answer = error
            connection.send(answer)
    except (EOFError, OSError):
        return


def _encode(work: Work, tokenizer: tokenizers.Tokenizer, rules: Rules) -> Encoded:
    if isinstance(work, list):
        return documents.encode(work, tokenizer, rules)
    raws = readers.read(work, key=rules.key, encoding=rules.encoding, me=rules.me)
    return documents.encode(raws, tokenizer, rules)


def batches(unit: Unit, rules: Rules, meter: readers.Meter | None = None) -> Iterator[list[readers.Raw]]:
    """Raw documents of a unit in batches of bounded size; the same batches wherever and whenever they are made."""
    batch: list[readers.Raw] = []
    size = 0
    for raw in readers.read(unit, key=rules.key, encoding=rules.encoding, me=rules.me, meter=meter):
        batch.append(raw)
        size += raw.size
        if unit.kind == "stream" and (size >= sources.UNIT_BYTES or len(batch) >= 2000):
            yield batch
            batch, size = [], 0
    yield batch


def _batches(
    units: Sequence[Unit], done: Position, rules: Rules
) -> Iterator[tuple[Position, int, Unit | list[readers.Raw]]]:
    """Work to hand out. A worker reads files and ranges itself; a stream is read here, as only one process can."""
    for unit in units[done[0] :]:
        if unit.kind != "stream":
            yield (unit.number + 1, 0), unit.size, unit
            continue
        meter = readers.Meter()
        skip = done[1] if unit.number == done[0] else 0
        counted = 0
        for number, batch in enumerate(batches(unit, rules, meter), 1):
            if number <= skip:
                counted = meter.bytes
                continue
            yield (unit.number, number), meter.bytes - counted, batch
            counted = meter.bytes
        yield (unit.number + 1, 0), unit.size - counted, []


def _first(waiting: deque[tuple[Position, int, Future[Encoded]]]) -> Step:
    position, advance, future = waiting.popleft()
    return position, advance, future.result()
