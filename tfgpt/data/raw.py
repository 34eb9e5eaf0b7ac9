"""What reading a file gives: documents as they lie in it, with the place they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_DOCUMENT = 64 << 20  # bytes: a single line or cell beyond this is reported, not read into memory


@dataclass(frozen=True)
class Raw:
    """One document before decoding. `problem` names what is wrong with it when it could not even be read."""

    kind: str  # "text" | "json" | "chat" | "tokens"
    data: bytes | str | np.ndarray
    where: str  # path, byte offset or member, for reports
    problem: str = ""  # "reason" or "reason (detail)": reports count reasons
    split: str = ""  # "train" or "eval" where the source says so itself

    @property
    def size(self) -> int:
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)


def unread(where: str, error: BaseException) -> Raw:
    """What stands in the place of a file, an archive's member or an array that cannot be read (on)."""
    if isinstance(error, UnicodeDecodeError):
        return Raw("text", b"", where, problem=f"not {error.encoding.upper()} ({error.reason})")
    return Raw("text", b"", where, problem=f"unreadable ({str(error) or type(error).__name__})")
