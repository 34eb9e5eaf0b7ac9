"""What this machine has to offer."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCELERATORS = ("nvidia0", "nvidiactl", "kfd", "dxg", "accel0", "vfio/0")  # in /dev: GPUs, under Windows too, and TPUs

GROUPS = "/sys/fs/cgroup"  # where Linux says what a container may have

_one_heap = False


def cores() -> int:
    """Processor cores that this process may use: fewer than the machine has inside a container or under taskset."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, _share_of_a_container() or count)


def _share_of_a_container() -> int | None:
    """Cores' worth of time that a container may take; more threads than that would wait for one another, and use it up."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = [word for name in names for word in Path(GROUPS, name).read_text("ascii").split()]
            quota, period = map(int, words)  # "max" or -1 stand for no limit
            return max(1, math.ceil(quota / period)) if quota > 0 else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None


def wide_vectors() -> None:
    """Let XLA use vectors of 512 bits where the processor has them at full speed; it asks once, before its first program.

    Its default of 256 is right for the first processors that had them, which slowed down. Those with products of bfloat16
    came after. Whoever has set this flag knows better.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_prefer_vector_width" not in flags and "avx512_bf16" in processor("flags").split():
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()


def may_have_accelerator() -> bool:
    """Whether the system shows a device that could be a GPU or a TPU, and this process may use it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(os.path.exists(f"/dev/{name}") for name in ACCELERATORS)


def processor(what: str) -> str:
    """What Linux says of the first core, such as its "model name"; "" elsewhere, or where it says nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")
    except OSError:
        return ""


def memory() -> int | None:
    """Bytes that are built in; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def one_heap(*, for_all: bool) -> None:
    """From now on let all threads take memory from one heap: compilers' threads leave much behind in heaps of their own.

    `for_all` sizes: it keeps what they give back, so that it has room for all of a step's arrays once it has had it. Large
    ones are otherwise mapped one by one, and cleared by the system each time.
    """
    global _one_heap
    if mallopt := _of_the_c_library("mallopt"):
        # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD; libraries that know no such options say so by a 0.
        options = [(-8, 1), (-4, 0), (-1, 2**31 - 1)] if for_all else [(-8, 1)]
        _one_heap = all([mallopt(option, value) for option, value in options]) and for_all


def give_memory_back() -> None:
    """Give what the heap holds without need back to the system."""
    if trim := _of_the_c_library("malloc_trim"):
        trim(0)


@contextmanager
def room_made(every: float = 0.1) -> Iterator[None]:
    """Around work that compiles: give memory back all the time, and let what comes after work in a part of its own.

    Compilers leave small things wherever something was free. Arrays that are made and given back over and over would have to
    find their place between these, and take up to a tenth more.
    """
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every):
            give_memory_back()

    worker = threading.Thread(target=work, name="memory", daemon=True)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join()
        give_memory_back()
        _give_up_holes()


def _give_up_holes(least: int = 1 << 20) -> None:
    """Take all free pieces of the heap for good, but for the last. Nobody writes there: that takes addresses, not memory."""
    names = ("malloc", "free", "sbrk", "mallinfo2")
    malloc, free, sbrk, mallinfo = (_of_the_c_library(name) for name in names)
    if not (_one_heap and malloc and free and sbrk and mallinfo):
        return
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    sbrk.argtypes, sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    mallinfo.argtypes, mallinfo.restype = [], _HeapInfo
    # Should another library answer for the heap than the one that we ask, this ends as well.
    size, left = 1 << 30, mallinfo().fordblks
    while size >= least and left >= least:
        last = (sbrk(0) or 0) - mallinfo().keepcost
        place = malloc(size)
        if not place or place >= last:
            free(place)
            size //= 2
        else:
            left -= size


class _HeapInfo(ctypes.Structure):
    """What glibc's mallinfo2() returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _of_the_c_library(name: str) -> Any:
    """A function of glibc; other systems have none of these."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
