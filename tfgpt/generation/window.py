"""What a model with a fixed context sees of a text that is longer than it.

Positions are learned, so a window cannot slide by a token: all that it keeps would have to be computed anew each time.
Therefore a full context goes on from its last half.
"""

from __future__ import annotations

from collections.abc import Sequence


def default_length(prompt: int, n_ctx: int) -> int:
    """New tokens where the user names no number: to the end of the context, or half of it where the prompt leaves no room.

    >>> default_length(64, 1024), default_length(3000, 1024)
    (960, 512)
    """
    return n_ctx - prompt if prompt < n_ctx else half(n_ctx)


def half(n_ctx: int) -> int:
    """Tokens that stay when a context is full."""
    return max(1, n_ctx // 2)


def first(ids: Sequence[int], *, length: int, n_ctx: int) -> Sequence[int]:
    """What the model reads of a prompt: all of it where it fits, else its end, with room for `length` tokens, or half.

    >>> len(first(range(3000), length=100, n_ctx=1024)), len(first(range(3000), length=1000, n_ctx=1024))
    (925, 512)
    """
    if len(ids) <= n_ctx:
        return ids
    # The last new token is drawn but not read, so it needs no place.
    return ids[-max(n_ctx - (length - 1), half(n_ctx)) :]


def again(ids: Sequence[int], *, n_ctx: int) -> Sequence[int]:
    """What is read anew when the context is full: the last half of prompt and output."""
    return ids[-half(n_ctx) :]
