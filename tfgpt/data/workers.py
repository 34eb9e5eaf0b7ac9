"""Batches of documents through worker processes and back, in order and with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tfgpt import tokenizers
from tfgpt.data import documents, ledger, readers, sources
from tfgpt.data.documents import Encoded, Rules
from tfgpt.data.sources import Unit
from tfgpt.errors import Failure
from tfgpt.machine import cores
from tfgpt.tokenizers import Tokenizer

SMALL_JOB = 4 << 20  # bytes: below this, starting processes takes longer than the work
Position = tuple[int, int]  # unit, batches of it that are done
Step = tuple[Position, int, Encoded]  # where to go on afterwards, bytes of input done, what came of them

_mine: tuple[Tokenizer, Rules] | None = None  # set once in each worker process


def encoded_units(
    units: Sequence[Unit], done: Position, output: Path, rules: Rules, processes: int | None
) -> Iterator[Step]:
    """Everything behind `done`, encoded, in unit order whatever the number of processes."""
    processes = processes or cores()
    left = sum(unit.size for unit in units[done[0] :])
    if processes == 1 or left < SMALL_JOB:
        tokenizer = tokenizers.load(output / ledger.TOKENIZER_FOLDER)
        for position, advance, work in _batches(units, done, rules.key):
            raws = readers.read(work, key=rules.key) if isinstance(work, Unit) else work
            yield position, advance, documents.encode(raws, tokenizer, rules)
        return
    waiting: deque[tuple[Position, int, Future[Encoded]]] = deque()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(str(output), rules, os.getpid())
    )
    try:
        for position, advance, work in _batches(units, done, rules.key):
            waiting.append((position, advance, pool.submit(_encode, work)))
            # Two batches a process keep all of them busy, and memory bounded, while the first in line is awaited.
            while len(waiting) > 2 * processes:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    except BrokenProcessPool:
        raise Failure(
            "a worker process died, most likely for want of memory; what was encoded so far is safe",
            fix="run the same command again with fewer --processes",
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # nothing a worker holds is worth waiting for
        pool.shutdown(wait=True, cancel_futures=True)


def batches(unit: Unit, key: str, meter: readers.Meter | None = None) -> Iterator[list[readers.Raw]]:
    """Raw documents of a unit in batches of bounded size; the same batches wherever and whenever they are made."""
    batch: list[readers.Raw] = []
    size = 0
    for raw in readers.read(unit, key=key, meter=meter):
        batch.append(raw)
        size += raw.size
        if unit.kind == "stream" and (size >= sources.UNIT_BYTES or len(batch) >= 2000):
            yield batch
            batch, size = [], 0
    yield batch


def _batches(
    units: Sequence[Unit], done: Position, key: str
) -> Iterator[tuple[Position, int, Unit | list[readers.Raw]]]:
    """Work to hand out. A worker reads files and ranges itself; a stream is read here, as only one process can."""
    for unit in units[done[0] :]:
        if unit.kind != "stream":
            yield (unit.number + 1, 0), unit.size, unit
            continue
        meter = readers.Meter()
        skip = done[1] if unit.number == done[0] else 0
        counted = 0
        for number, batch in enumerate(batches(unit, key, meter), 1):
            if number <= skip:
                counted = meter.bytes
                continue
            yield (unit.number, number), meter.bytes - counted, batch
            counted = meter.bytes
        yield (unit.number + 1, 0), unit.size - counted, []


def _first(waiting: deque[tuple[Position, int, Future[Encoded]]]) -> Step:
    position, advance, future = waiting.popleft()
    return position, advance, future.result()


def _begin(output: str, rules: Rules, parent: int) -> None:
    """Set up a worker process."""
    global _mine
    # Ctrl-C reaches the whole group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    _mine = tokenizers.load(Path(output) / ledger.TOKENIZER_FOLDER), rules


def _leave_with(parent: int) -> None:
    """A parent that was killed cannot end its workers, so they watch for it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _encode(work: Unit | list[readers.Raw]) -> Encoded:
    assert _mine is not None
    tokenizer, rules = _mine
    raws = readers.read(work, key=rules.key) if isinstance(work, Unit) else work
    return documents.encode(raws, tokenizer, rules)
