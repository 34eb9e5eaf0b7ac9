"""The chat format: one message a line, `1|AUDIENCE|MESSAGE <EOM>` where 1 is sent by me and 0 is received.

Nothing in a message can be taken for the format itself. On writing, a run of line breaks becomes one space, and a `<EOM>` that
somebody typed becomes `<eom>`; everything else comes back as it was. Reading is total: each line is part of a message, or a
fault with its number.

>>> line(Message(True, "mum", "Home at 6 | 7?"))
'1|mum|Home at 6 | 7? <EOM>'
>>> list(read(["0|+49123|ok <EOM>", "hello"]))[0]
Message(sent=False, audience='+49123', text='ok')
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

EOM = "<EOM>"
HEADER = re.compile(r"([01])\|([^|\r\n]*)\|")
LONGEST = 1_000_000  # characters of one message: without a bound, a file that never says <EOM> would be one message
# What str.splitlines takes for the end of a line, so that no reader sees two lines where one was written.
BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
SURROGATES = re.compile("[\ud800-\udfff]")
NEXT = re.compile(r"\n(?=[01]\|[^|\r\n]*\|)")
# What is left when the model was stopped in the middle of a marker, or of the next line's header.
CUT = re.compile(r"(?:<(?:E(?:OM?)?)?|\n[01](?:\|[^|\r\n]*)?|\A[01]\|[^|\r\n]*)\Z")

NO_LINE = f"chat line without direction|audience|message {EOM}"
NO_END = f"chat message without its {EOM}"
NO_EXPORT = "chat export without sender, audience or text"
UNREADABLE = "chat line that is no text"
TOO_LONG = f"chat message longer than {LONGEST} characters"


@dataclass(frozen=True)
class Message:
    """One message between me and `audience`, a person or a group."""

    sent: bool  # by me
    audience: str
    text: str


@dataclass(frozen=True)
class Fault:
    """Lines that are no message."""

    line: int  # the first of them, counted from 1
    reason: str  # short and countable
    detail: str = ""


def read(lines: Iterable[str | None], *, me: str = "") -> Iterator[Message | Fault]:
    """Messages and faults, in order, of lines in the chat format and of JSON lines {"sender", "audience", "text"}.

    A message goes on over the lines behind its header until `<EOM>`; a line that begins as a header always begins a
    message. None stands for a line that could not be decoded. In JSON, a sender is "me", true, or the name `me`.

    >>> list(read(['{"sender": "Ada", "audience": "mum", "text": "hi"}'], me="Ada"))
    [Message(sent=True, audience='mum', text='hi')]
    """
    number = start = size = 0
    sent, audience = False, ""
    parts: list[str] = []  # of the message whose <EOM> is still to come
    for number, line in enumerate(lines, 1):
        rest = (line or "").rstrip("\r\n")
        if parts and (line is None or HEADER.match(rest)):
            yield Fault(start, NO_END, _until(start, number - 1))
            parts = []
        if line is None:
            yield Fault(number, UNREADABLE)
        while rest.strip() or parts:
            if not parts:
                if rest.lstrip().startswith("{"):
                    yield _exported(rest, number, me)
                    break
                head = HEADER.match(rest)
                if head is None:
                    yield Fault(number, NO_LINE, rest.strip()[:40])
                    break
                start, size, sent, audience = number, 0, head[1] == "1", head[2]
                rest = rest[head.end() :]
            before, mark, rest = rest.partition(EOM)
            parts.append(before)
            size += len(before)
            if mark:
                yield Message(sent, audience, "\n".join(parts).removesuffix(" "))
                parts, rest = [], rest.lstrip()
            elif size + len(parts) > LONGEST:
                yield Fault(start, TOO_LONG, _until(start, number))
                parts = []
                break
            else:
                break
    if parts:
        yield Fault(start, NO_END, _until(start, number))


def line(message: Message) -> str:
    """The line of a message, without its line end."""
    audience = _one_line(message.audience).replace("|", "/")
    return f"{int(message.sent)}|{audience}|{_one_line(message.text)} {EOM}"


def write(messages: Iterable[Message]) -> str:
    """The lines of several messages: text to train on.

    >>> write([Message(True, "mum", "hi"), Message(False, "mum", "hello")])
    '1|mum|hi <EOM>\\n0|mum|hello <EOM>\\n'
    """
    return "".join(line(message) + "\n" for message in messages)


def turn(audience: str, text: str) -> str:
    """The prompt for one turn as dixie's clients send it. The model may write its next line for either side.

    >>> turn("mum", "hi")
    '1|mum|hi<EOM>'
    """
    return line(Message(True, audience, text)).removesuffix(f" {EOM}") + EOM


def prompt(history: Sequence[Message]) -> str:
    """A conversation so far, as in training, with the header of its next line: the model can only write the other side's reply.

    >>> prompt([Message(False, "mum", "Where are you?"), Message(True, "mum", "Here")])
    '0|mum|Where are you? <EOM>\\n1|mum|Here <EOM>\\n0|mum|'
    """
    if not history:
        raise ValueError("a prompt needs at least one message: without one there is nobody to reply to")
    last = history[-1]
    # "The other side" is whoever did not speak last; a model may as well play me.
    return write(history) + line(Message(not last.sent, last.audience, "")).removesuffix(f" {EOM}")


def parse_reply(text: str, *, sent: bool = False) -> str:
    """The first reply in what a model wrote, and nothing behind it: neither a second message nor a half-written marker.

    The text may begin in the middle of the reply (behind `prompt`) or with a header (behind `turn`). Lines that the model wrote
    in the asker's place are passed over. `sent` is the side that replies.

    >>> parse_reply("\\n0|mum|Come home <EOM>\\n1|mum|Yes <EOM>"), parse_reply("Come home <EO")
    ('Come home', 'Come home')
    """
    begun = True  # only at the very beginning is text without a header a reply
    while text := text.lstrip():
        head = HEADER.match(text)
        begin = head.end() if head else 0
        end, behind = _end(text, begin)
        if begun if head is None else (head[1] == "1") == sent:
            return text[begin:end].strip()
        text, begun = text[behind:], False
    return ""


def _end(text: str, begin: int) -> tuple[int, int]:
    """Where the message that begins at `begin` ends, and where the next one may begin."""
    mark = text.find(EOM, begin)
    if (following := NEXT.search(text, begin, mark if mark >= 0 else len(text))) is not None:
        return following.start(), following.end()
    if mark >= 0:
        return mark, mark + len(EOM)
    cut = CUT.search(text)
    return cut.start() if cut else len(text), len(text)


def _exported(text: str, number: int, me: str) -> Message | Fault:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(number, "broken JSON", str(error)[:100])
    sender, audience, said = (found.get(key) for key in ("sender", "audience", "text"))
    legal = {
        "sender": isinstance(sender, (bool, str)) and sender != "",
        "audience": isinstance(audience, str),
        "text": isinstance(said, str),
    }
    for key in (key for key, well in legal.items() if not well):
        return Fault(number, NO_EXPORT, f"{key} is {json.dumps(found.get(key))[:40]}")
    return Message(sender if isinstance(sender, bool) else sender in ("me", me), audience, said)


def _one_line(text: str) -> str:
    # A lone surrogate (from "\ud800" in JSON) is no character, and no file could hold it.
    return BREAKS.sub(" ", SURROGATES.sub("\ufffd", text)).replace(EOM, EOM.lower())


def _until(first: int, last: int) -> str:
    return f"lines {first} to {last}" if last > first else ""
