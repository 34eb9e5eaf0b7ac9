"""Signals that are answered between two steps of a job, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from tfgpt.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While this is entered, the first SIGINT or SIGTERM is only noted; a second one acts at once.

    >>> with StopRequest("stopped; run again to go on") as stop:
    ...     for step in range(3):
    ...         stop.check()   # raises Interrupted here, if anybody asked
    """

    def __init__(self, message: str, *, at_once: bool = False) -> None:
        """With `at_once`, the second signal ends the process even in the middle of a call into compiled code.

        Python answers signals between two of its own instructions only, and a compiler may take a minute for one of them.
        """
        self.message, self.at_once = message, at_once
        self.requested = 0
        self._before: dict[int, object] = {}

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.requested:
            raise Interrupted(self.requested, self.message)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        self._restore()
        if self.at_once:
            for known in SIGNALS:
                signal.signal(known, signal.SIG_DFL)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
