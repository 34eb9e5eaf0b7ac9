"""From the names that archives carry, which nobody vouches for, to flat and safe names of text files."""

from __future__ import annotations

import hashlib
import re

MONTH = re.compile(r"RS_(?:v2_)?[12]\d{3}-\d{2}")
PACKED = re.compile(r"\.(?:gz|xz|bz2|zst|tar|tgz|txz|tbz2?|tzst)$", re.IGNORECASE)
PAGE = re.compile(r"\.(?:html?|xhtml)$", re.IGNORECASE)
LONGEST = 120  # bytes; file systems allow 255, and a digest, a number and a suffix still have to fit.
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)


def month(name: str) -> str:
    """The month of Reddit submissions a name speaks of, or an empty string.

    >>> month("RS_2017-04-1_data.xz"), month("pages.tar")
    ('RS_2017-04', '')
    """
    found = MONTH.search(name)
    return found.group() if found else ""


def group(name: str) -> str:
    """The folder of the output that a source of this name goes to: its month, or its own name without the suffixes.

    >>> group("RS_2017-04-1_data.xz"), group("my pages.tar.gz")
    ('RS_2017-04', 'my_pages')
    """
    return month(name) or safe(unpacked(name)) or "documents"


def unpacked(name: str) -> str:
    """`name` without the suffixes of archives and compression."""
    while PACKED.search(name):
        name = PACKED.sub("", name)
    return name


def safe(name: str) -> str:
    """`name` as a single file name that every file system takes and no shell trips over."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._-")
    plain = plain.encode("utf-8")[:LONGEST].decode("utf-8", "ignore").rstrip("._-")
    return "_" + plain if RESERVED.match(plain) else plain


def text_name(member: str) -> str:
    """The name of the text file, without `.txt`, for a page called `member` in its archive or folder.

    A name that had to be changed gets a digest of the whole path, so that two pages never share a file and the answer
    depends on nothing but the name: a resumed run names its files as a straight run does.

    >>> text_name("./RS_2017-04/12345-abcdef.html"), text_name("../../etc/passwd.html")
    ('12345-abcdef', 'etc_passwd-f6abf461')
    """
    parts = [part for part in member.split("/") if part not in ("", ".")]
    if len(parts) > 1 and month(parts[0]) == parts[0]:
        parts = parts[1:]
    path = "/".join(parts)
    stem = re.sub(r"\.(?:html|txt)$", "", path)
    flat = safe(re.sub(PAGE, "", unpacked(path)) if stem == path else stem)
    if flat and flat == stem:
        return flat
    digest = hashlib.sha256(member.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{flat}-{digest}" if flat else digest
