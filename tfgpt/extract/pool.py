"""Worker processes, each with a thread of the parent that feeds it, keeps its time and replaces it when it fails."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfgpt.errors import Failure, UserError
from tfgpt.extract import journal, wire

# newspaper and lxml keep a little memory of every page they see.
PAGES_PER_WORKER = 2000
START_SECONDS = 120


@dataclass
class Task:
    """A page to extract: `key` comes back with the result."""

    key: Any
    data: bytes
    target: Path


@dataclass
class Result:
    """What became of a page: an outcome of the journal's, and why it failed."""

    key: Any
    outcome: str
    reason: str


class Worker:
    """One process; `extract` returns whatever the page does to it."""

    def __init__(self, settings: dict[str, Any], *, pages: int = PAGES_PER_WORKER) -> None:
        self.settings, self.pages = settings, pages
        self.process: subprocess.Popen[bytes] | None = None
        self.closing = self.timed_out = False
        self.seen = 0
        self.lock = threading.Lock()

    def start(self) -> None:
        """Start the process and its engine; raises what the user must know if the engine is not there."""
        with self.lock:
            if self.closing:
                return
            # The parent's own path, so that a worker finds the same packages and nothing of the present folder.
            program = f"import sys; sys.path[:] = {sys.path!r}; from tfgpt.extract.worker import main; main()"
            self.process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Out of the terminal's reach: Ctrl-C is for the parent, which then stops its workers in order.
                start_new_session=True,
            )
            self.seen = 0
        reply = self._ask({**self.settings, "parent": os.getpid()}, b"", seconds=START_SECONDS)
        if reply is None and not self.closing:
            raise Failure("a worker process does not start", where=sys.executable, fix="run again with --processes 1")
        if reply and "error" in reply:
            what, where, near, fix = reply["error"]
            kind = UserError if reply["exit_code"] == UserError.exit_code else Failure
            raise kind(what, where=where, nearest=near, fix=fix)

    def extract(self, task: Task) -> Result:
        """Have one page done, within its time."""
        if self.process is None or self.process.poll() is not None or self.seen >= self.pages:
            self.stop()
            self.start()
        self.seen += 1
        limit = self.settings["timeout"]
        reply = self._ask({"target": str(task.target)}, task.data, seconds=limit)
        if reply is None:
            reason = f"timed out: {limit:g} s" if self.timed_out else f"the extractor crashed: {self._ending()}"
            reply = {"outcome": journal.FAILED, "reason": reason}
        if "stop" in reply:
            raise Failure(reply["stop"], where=str(task.target), fix="mend that, then run the same command again")
        if reply["outcome"] != journal.KEPT:
            # A worker may have written the file in its last moment, and an earlier run when the page was another.
            task.target.unlink(missing_ok=True)
        return Result(task.key, reply["outcome"], reply["reason"])

    def stop(self) -> None:
        """End the process; it holds nothing that could be lost."""
        with self.lock:
            process, self.process = self.process, None
        if process is not None:
            assert process.stdin and process.stdout
            process.kill()
            for stream in (process.stdin, process.stdout):
                try:
                    stream.close()
                except OSError:
                    pass
            process.wait()

    def close(self) -> None:
        """Kill the process and start no other; may be called from another thread."""
        with self.lock:
            self.closing = True
            if self.process is not None:
                self.process.kill()

    def _ask(self, header: dict[str, Any], payload: bytes, *, seconds: float) -> dict[str, Any] | None:
        process = self.process
        if process is None:
            return None
        assert process.stdin and process.stdout
        self.timed_out = False

        def expire() -> None:
            self.timed_out = True
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            wire.send(process.stdin, header, payload)
            answer = wire.receive(process.stdout)
        except (OSError, ValueError):
            answer = None
        finally:
            timer.cancel()
            timer.join()
        if answer is None or self.timed_out:
            # An answer may come in the very moment the time is up; it counts, but its process is gone.
            process.kill()
            process.wait()
        return None if answer is None else answer[0]

    def _ending(self) -> str:
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                return f"signal {-code}"
        return f"exit code {code}"


class Pool:
    """`processes` workers; pages go in with `submit` and come out, in any order, with `result`.

    >>> with Pool(2, settings) as pool:                       # doctest: +SKIP
    ...     pool.submit(Task("a.html", b"<p>...", Path("a.txt")))
    ...     pool.result(lambda: None).outcome
    'k'
    """

    def __init__(self, processes: int, settings: dict[str, Any], *, pages: int = PAGES_PER_WORKER) -> None:
        self.workers = [Worker(settings, pages=pages) for _ in range(processes)]
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self.pending = 0
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Pool:
        try:
            # One alone first: a missing engine is said once, and before anything else happens.
            self.workers[0].start()
        except BaseException:
            self.workers[0].stop()
            raise
        for worker in self.workers:
            thread = threading.Thread(target=self._feed, args=(worker,), daemon=True)
            thread.start()
            self.threads.append(thread)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.close()
        for _ in self.workers:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()

    @property
    def full(self) -> bool:
        """Whether every worker has a page and another one waiting: more would only fill the memory."""
        return self.pending >= 2 * len(self.workers)

    def submit(self, task: Task) -> None:
        """Hand in one page."""
        self.pending += 1
        self.tasks.put(task)

    def result(self, check: Callable[[], None]) -> Result:
        """Wait for the next result; `check` is called now and then and may raise to stop the waiting."""
        while True:
            check()
            try:
                found = self.results.get(timeout=0.2)
            except queue.Empty:
                continue
            self.pending -= 1
            if isinstance(found, BaseException):
                raise found
            return found

    def _feed(self, worker: Worker) -> None:
        while not worker.closing and (task := self.tasks.get()) is not None:
            try:
                result: Result | BaseException = worker.extract(task)
            except BaseException as error:
                result = error
            # A worker that was told to end fails its page through no fault of the page.
            if not worker.closing:
                self.results.put(result)
        worker.stop()
