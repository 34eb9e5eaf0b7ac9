"""What becomes of a model's text before a person reads or hears it; a server's configuration names these functions.

Markers and headers of the chat format are found by their structure. Everything else a model may well mean, so digits,
brackets, "+", "=" and "&" stay.
"""

from __future__ import annotations

import os
import re

from tfgpt import chat

# The end of a marker that the prompt began, before a header: "EOM>0|mum|...".
MARKER_END = re.compile(r"\A\s*<?E?O?M?>\s*(?=[01]\|)")
# A marker that was never closed still says that the message is over.
MARKER = re.compile(r"<EOM?(?![^\W_])")
# A name begins with a letter, or is a number as telephones have it. So "0|1|1" is no header, and "0|mum|" is one.
HEADER = re.compile(r"(?<!\S)[01]\|(\+\d[\d ()/-]*|[^\W\d_][^|\r\n]{0,39})\|")
HEADER_END = re.compile(r"\A[01]?\|")
WORD = re.compile(r"[^\W\d_]+")


def chatbot(text: str, *, sent: bool = False) -> str:
    """The first reply of the other side, on one line, without a trace of the format; "" if there is none.

    `sent` is the side that replies: with true, the model plays me.
    The environment variable DIXIE_NAMES, a comma list, tells names that do not look like one (such as "007").

    >>> chatbot("\\n0|mum|0 and 1 (maybe) + 2 = 3 <EOM>\\n1|mum|What? <EOM>")
    '0 and 1 (maybe) + 2 = 3'
    """
    reply = chat.parse_reply(MARKER_END.sub("", text), sent=sent)
    names = [name.strip() for name in os.environ.get("DIXIE_NAMES", "").split(",") if name.strip()]
    reply = HEADER_END.sub("", reply)
    for name in names:
        reply = reply.removeprefix(name + "|")
    ends = [found.start() for pattern in (MARKER, HEADER) if (found := pattern.search(reply))]
    ends += [at for name in names for side in "01" if (at := reply.find(f" {side}|{name}|")) >= 0]
    return " ".join(reply[: min(ends, default=len(reply))].split())


def speech(text: str) -> str:
    """`chatbot` for a voice: words of capitals are spelled letter by letter.

    >>> speech("0|mum|NASA has 2 PCs <EOM>")
    'N A S A has 2 P Cs'
    """
    return WORD.sub(_spelled, chatbot(text))


def _spelled(found: re.Match[str]) -> str:
    word = found[0]
    letters = word[:-1] if word.endswith("s") else word
    return " ".join(letters) + word[len(letters) :] if len(letters) > 1 and letters.isupper() else word
