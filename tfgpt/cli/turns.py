"""A conversation in turns: what a model reads of it, and what of the model's words is its reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfgpt import chat
from tfgpt.serving import sanitizers, templates

Messages = Sequence[dict[str, str]]  # {"role": "user" or "assistant", "content": ...}, as the server has them
# The end of a text that may yet become a marker, a header, or the rest of a marker that stands before a header.
OPEN_MARKS = re.compile(r"(?:<(?:E(?:OM?)?)?|(?<!\S)[01](?:\|[^|\r\n]*)?|\A\s*<?E?O?M?>?\s*(?:[01]\|?)?|\s+)\Z")
OPEN_SPACE = re.compile(r"\s+\Z")
MORE = "\nmore"  # what the model could still say


@dataclass(frozen=True)
class Form:
    """How a model writes conversations.

    prompt  the text that ends where the model's reply begins
    stops   marks at which its turn ends
    clean   what of its words is the reply
    open    an end of its words on which that may still depend, so that it is not shown yet
    """

    prompt: Callable[[Messages], str]
    stops: tuple[str, ...]
    clean: Callable[[str], str]
    open: re.Pattern[str]


def plain() -> Form:
    """The server's template for models that were never taught a form of conversation."""
    _, stops = templates.plain([{"role": "user", "content": ""}])
    return Form(lambda messages: templates.plain(list(messages))[0], tuple(stops), str.strip, OPEN_SPACE)


def f11(audience: str, *, as_me: bool) -> Form:
    """Lines of the chat format with `audience`; the user types as me, or as the audience, and the model is the other side.

    >>> f11("mum", as_me=True).prompt([{"role": "user", "content": "On my way"}])
    '1|mum|On my way <EOM>\\n0|mum|'
    """

    def prompt(messages: Messages) -> str:
        return chat.prompt([chat.Message((m["role"] == "user") == as_me, audience, m["content"]) for m in messages])

    return Form(prompt, (chat.EOM,), lambda text: sanitizers.chatbot(text, sent=not as_me), OPEN_MARKS)


def knows_f11(score: Callable[[str], tuple[Sequence[str], Sequence[float]]]) -> bool:
    """Whether a model, behind the "<" at the end of a line, finds the rest of `<EOM>` likelier than all else together.

    `score` gives the pieces of a text and the log-probability of each.
    """
    line = chat.line(chat.Message(True, "user", "Hello"))
    pieces, logprobs = score(line)
    at, likely = 0, 0.0
    for piece, logprob in zip(pieces, logprobs, strict=True):
        likely += logprob if at > line.rindex("<") else 0.0
        at += len(piece)
    return likely > -0.69


class Turns:
    """What was said, and as much of it as a model can read.

    `count` says how many tokens a text has; a prompt may have `room` of them.
    """

    def __init__(self, form: Form, count: Callable[[str], int], room: int) -> None:
        self._form, self._count, self._room = form, count, room
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.messages: list[dict[str, str]] = []
        self.left_out = 0  # messages at the beginning that no longer fit

    def say(self, text: str) -> None:
        """The user's line."""
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """The model's reply; nothing at all is none."""
        if text:
            self.messages.append({"role": "assistant", "content": text})

    def undo(self) -> str | None:
        """Take back the user's last line and what was answered; returns the line, or None if there is none."""
        while self.messages:
            message = self.messages.pop()
            self.left_out = min(self.left_out, len(self.messages))
            if message["role"] == "user":
                return message["content"]
        return None

    def prompt(self) -> str:
        """The turns that fit, the oldest being left out first; the user's last line always stays."""
        while True:
            text = self._form.prompt(self.messages[self.left_out :])
            later = range(self.left_out + 1, len(self.messages))
            begin = next((i for i in later if self.messages[i]["role"] == "user"), None)
            if begin is None or self._count(text) <= self._room:
                return text
            self.left_out = begin


class Reply:
    """A reply that becomes known piece by piece; all that is shown of it together is what `form.clean` makes of the whole."""

    def __init__(self, form: Form) -> None:
        self._form, self._written, self.text = form, "", ""

    def push(self, piece: str) -> str:
        """What can be shown now that the model has written `piece`."""
        self._written += piece
        tail = self._form.open.search(self._written)
        return self._show(self._form.clean(self._written[: tail.start()] if tail else self._written))

    @property
    def over(self) -> bool:
        """Whether nothing that the model may still write is part of its reply."""
        # Before the first word, a line in the user's place may still be followed by the reply.
        if not self.text or self._form.open.search(self._written):
            return False
        return MORE.strip() not in self._form.clean(self._written + MORE)[len(self.text) :]

    def finish(self, stop: str | None) -> str:
        """What is left to show when the model has ended, at the mark `stop` or without one."""
        # With its marker a message is whole: "I <" was then meant so, and is no half of a marker.
        return self._show(self._form.clean(self._written + (chat.EOM if stop == chat.EOM else "")))

    def _show(self, text: str) -> str:
        # What was shown stays: a name of DIXIE_NAMES at the very beginning may be known for one too late.
        new = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += new
        return new
