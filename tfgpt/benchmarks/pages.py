"""Tables that a command puts into a page of Markdown, between two comments: <!-- growth --> and <!-- /growth -->."""

from __future__ import annotations

import re

from tfgpt import files
from tfgpt.errors import UserError


def check(path: str, name: str) -> None:
    """Say before anything is measured that the page has no place for it."""
    _parts(path, name)


def fill(path: str, name: str, text: str) -> None:
    """Put `text` between the marks of `name`, in place of what is there."""
    before, _, behind = _parts(path, name)
    files.write_text(path, f"{before}\n{text.strip()}\n{behind}")


def _parts(path: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = files.read_bytes(path).decode()
    found = re.fullmatch(f"(.*{re.escape(begin)}\n)(.*?)({re.escape(end)}.*)", page, re.DOTALL)
    if not found or page.count(begin) != 1:
        raise UserError(
            f"this page has no place for the tables of {name}", where=path, fix=f"write {begin} and {end}, a line each"
        )
    return found[1], found[2], found[3]
