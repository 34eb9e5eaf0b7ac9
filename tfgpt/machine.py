"""What this machine has to offer."""

from __future__ import annotations

import os


def cores() -> int:
    """Processor cores that this process may use: fewer than the machine has inside a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
