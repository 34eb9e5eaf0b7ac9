"""What this machine has to offer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable


def cores() -> int:
    """Processor cores that this process may use: fewer than the machine has inside a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_heap() -> None:
    """From now on let all threads take memory from one heap: compilers' threads leave much behind in heaps of their own."""
    if mallopt := _of_the_c_library("mallopt"):
        mallopt(-8, 1)  # M_ARENA_MAX; other libraries know no such option, and say so by a 0 that nobody needs


def give_memory_back() -> None:
    """Give what the heap holds without need back to the system."""
    if trim := _of_the_c_library("malloc_trim"):
        trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    """A function of glibc; other systems have none of these."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
