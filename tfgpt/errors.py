"""What tfgpt says when something cannot go on: what, where, the nearest legal value, and one command that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can mend before anything has been created; the command line ends with exit code 2.

    >>> print(UserError('unknown key "n_heads"', where="my.json, line 4", nearest='"n_head"', fix="rename the key"))
    unknown key "n_heads"
      where:   my.json, line 4
      nearest: "n_head"
      fix:     rename the key
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", nearest: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.nearest, self.fix = what, where, nearest, fix

    def __str__(self) -> str:
        lines = [self.what]
        for label, value in (("where", self.where), ("nearest", self.nearest), ("fix", self.fix)):
            if value:
                lines.append(f"  {label + ':':<8} {value}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their errors home by pickle, which would otherwise lose the keyword arguments.
        return (_rebuild, (type(self), self.what, self.where, self.nearest, self.fix))


class Failure(UserError):
    """Something went wrong while running (disk full, damaged data, no network); exit code 1."""

    exit_code = 1


class Problems(UserError):
    """Several mistakes in one report, so that the user mends them all at once."""

    def __init__(self, headline: str, problems: Sequence[UserError]) -> None:
        super().__init__(headline)
        self.problems = list(problems)

    def __str__(self) -> str:
        width = len(str(len(self.problems)))
        pad = "\n" + " " * (width + 2)
        rows = [f"{n:>{width}}. " + str(p).replace("\n", pad) for n, p in enumerate(self.problems, 1)]
        return "\n".join([self.what, *rows])

    def __reduce__(self) -> tuple[object, ...]:
        return (Problems, (self.what, self.problems))


class Interrupted(BaseException):
    """A signal asked us to stop; what stands is safe. Exit code 128 + signal number, as shells expect.

    Like KeyboardInterrupt it is nothing that went wrong: whoever catches every Exception of a library lets it through.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        super().__init__(message or "interrupted")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        return 128 + self.signal_number


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that `word` was probably meant to be, in quotes, or an empty string.

    >>> nearest("n_heads", ["n_head", "n_embd"])
    '"n_head"'
    """
    found = get_close_matches(word.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    return f'"{next(k for k in known if k.lower() == found[0])}"' if found else ""


def _rebuild(kind: type[UserError], what: str, where: str, near: str, fix: str) -> UserError:
    return kind(what, where=where, nearest=near, fix=fix)
