"""The bytes of a page as text: which encoding, and whether it is a page at all."""

from __future__ import annotations

import codecs
import re

BINARY = (b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"\x7fELF", b"OggS", b"RIFF", b"\x1f\x8b")
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
DECLARED = re.compile(
    rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,100}encoding=["']([\w.:-]{1,40})""", re.I
)
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class NoPage(ValueError):
    """Bytes that are no page of HTML, whatever their name says; the message is the whole reason."""


def decoded(data: bytes) -> str:
    """The page as text, in a way that depends on its bytes alone.

    >>> decoded('<meta charset="latin-1">caf\\xe9'.encode("latin-1"))
    '<meta charset="latin-1">café'
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _plain(data[len(mark) :].decode(encoding, "replace"))
    head = data[:4096]
    if head.startswith(BINARY) or len(CONTROLS.findall(head)) > 0.02 * len(head):
        raise NoPage("not text but binary data")
    try:
        # First, whatever the page declares: downloaders store what they had decoded as UTF-8 beside the old declaration,
        # and text in another encoding is next to never valid UTF-8 by chance.
        return _plain(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    declared = DECLARED.search(head)
    name = (declared.group(1) or declared.group(2)).decode("ascii") if declared else "windows-1252"
    # Browsers read Latin-1 as windows-1252, which the HTML standard has made the rule.
    name = "windows-1252" if re.fullmatch(r"(?i)iso-?8859-?1|latin-?1|us-ascii|ascii|utf-?8", name) else name
    try:
        return _plain(data.decode(name, "replace"))
    except (LookupError, ValueError):  # an encoding that is unknown, or that is none of text
        return _plain(data.decode("windows-1252", "replace"))


def _plain(text: str) -> str:
    # libxml2 stops at NUL and refuses a decoded page that still declares an encoding.
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text.replace("\0", ""), count=1)
