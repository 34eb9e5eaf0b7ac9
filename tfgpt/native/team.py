"""Threads that work on one thing together, and wait for each other inside of compiled code."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tfgpt.native.compiling import compiled

ARRIVED, ENDED = 0, 8  # places in `meeting`, each in a cache line of its own
PATIENCE = 4000  # looks at a counter before the processor is offered to others
PAUSES = platform.machine().lower() in ("x86_64", "amd64", "i686")


class Team:
    """`run(work, *given)` calls work(me, count, meeting, *given) on `count` threads; me is 0 to count - 1.

    `work` is compiled, without the interpreter's lock, and calls `wait(count, meeting)` wherever one needs what the others
    have done. The caller is one of them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._meeting = np.zeros(16, np.int64)
        self._others = ThreadPoolExecutor(count - 1, "tfgpt") if count > 1 else None

    def run(self, work: Callable[..., None], *given: Any) -> None:
        """Do it, to its end."""
        self._meeting[:] = 0
        working = []
        try:
            for me in range(1, self.count):
                assert self._others is not None
                working.append(self._others.submit(work, me, self.count, self._meeting, *given))
            work(0, self.count, self._meeting, *given)
        except BaseException:
            self._meeting[ENDED] = 1  # or the others waited for ever, if a signal came before all had begun
            raise
        finally:
            for other in working:
                other.result()


@compiled()
def wait(count, meeting):
    """Until all of the team are here."""
    if count == 1:
        return
    number = _add_one(meeting.ctypes.data + 8 * ARRIVED)
    everybody = (number // count + 1) * count
    looks = 0
    while _seen(meeting.ctypes.data + 8 * ARRIVED) < everybody and _seen(meeting.ctypes.data + 8 * ENDED) == 0:
        _pause()
        looks += 1
        if looks % PATIENCE == 0:
            _offer()


@intrinsic
def _add_one(typing, address):
    def build(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.intp), build


@intrinsic
def _seen(typing, address):
    def build(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(64)))
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.intp), build


@intrinsic
def _pause(typing):
    """Tell the processor that this is a loop that waits."""

    def build(context, builder, signature, arguments):
        if PAUSES:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), build


if hasattr(os, "sched_yield"):
    _offer = types.ExternalFunction("sched_yield", types.int32())
else:

    @compiled()
    def _offer():
        return 0


@compiled()
def take(counters, phase):
    """The next unit of work that nobody has taken yet in this phase; counters [phases, 8] begin at zero."""
    return _add_one(counters.ctypes.data + 64 * phase)
