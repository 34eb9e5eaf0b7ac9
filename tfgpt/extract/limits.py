"""How much time and memory one page, and how many bytes one archive, may take: the web is not always friendly."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tfgpt.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Bounds for input that nobody vouches for.

    >>> Limits(timeout=10, max_bytes=2_000_000).max_archive_bytes
    200000000000
    """

    timeout: float = 30.0
    """Seconds one page may take before its worker is replaced."""
    max_bytes: int = 10_000_000
    """Bytes of HTML in one page, unpacked."""
    max_archive_bytes: int = 200_000_000_000
    """Bytes one archive may unpack to."""
    max_memory: int = 4 << 30
    """Bytes of address space of one worker (where the system can enforce it)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise UserError(f"{field.name} must be above 0, not {value}", fix=f"--{field.name} {field.default}")
