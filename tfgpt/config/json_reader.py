"""Strict JSON that remembers where every value stands, and goes on after a slip so that one report can name them all."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tfgpt.errors import UserError

Path = tuple[str | int, ...]

MAXIMUM_DEPTH = 64
MAXIMUM_BYTES = 4 << 20
MAXIMUM_PROBLEMS = 100
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
WORD = re.compile(r"[^\s,:\[\]{}\"'#]+")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
CONSTANTS = {"true": True, "false": False, "null": None}
# What Python and YAML writers type instead; understood so that reading can go on, and reported all the same.
FOREIGN = {
    "True": "true",
    "False": "false",
    "None": "null",
    "TRUE": "true",
    "FALSE": "false",
    "yes": "true",
    "no": "false",
}


@dataclass
class Document:
    """What was read: the value, the (line, column) of every key or item, what is wrong, and which paths hold no value."""

    value: Any = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    problems: list[UserError] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    whole: bool = True


class _Stop(Exception):
    """Raised after a slip past which nothing can be read with any sense."""


def decode(data: bytes, *, name: str) -> str:
    """The text of a JSON file; a UTF-8 byte order mark is passed over, other encodings get the command that converts them."""
    if len(data) > MAXIMUM_BYTES:
        raise UserError(
            f"{len(data):,} bytes is too large for a configuration", where=name, fix="name the JSON file itself"
        )
    wide = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2] or data[1:2] == b"\0" else ""
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        wide = "utf-32"
    if wide:
        command = f"from pathlib import Path; p = Path({name!r}); p.write_text(p.read_text('{wide}'), 'utf-8')"
        raise UserError(f"the file is {wide.upper()}; JSON is UTF-8", where=name, fix=f'python -c "{command}"')
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise UserError(what, where=f"{name}, line {line}", fix="save the file as UTF-8 in your editor") from None


def read(text: str, *, name: str) -> Document:
    """Read one JSON object.

    >>> read('{"n_layer": 2,}', name="my.json").problems[0].what
    'a comma with nothing after it'
    """
    return _Reader(text, name).document()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at = text, name, 0
        self.line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self.result = Document()

    def document(self) -> Document:
        result = self.result
        try:
            self.space()
            if self.at == len(self.text):
                self.stop("the file is empty", fix='start with {"text": "data/my_text"}')
            result.value = self.value((), 0)
            self.space()
            if self.at < len(self.text):
                self.stop("there is more text after the end of the JSON value", fix="keep one { ... } in the file")
            if not isinstance(result.value, dict):
                result.whole = False
                found = "a list" if isinstance(result.value, list) else "a single value"
                self.note(f"a configuration is one object, {{ ... }}; this is {found}", at=0, fix='{"key": value, ...}')
        except _Stop:
            result.whole = False
        return result

    # Reporting

    def place(self, at: int) -> tuple[int, int]:
        line = bisect_right(self.line_starts, at)
        return line, at - self.line_starts[line - 1] + 1

    def note(self, what: str, *, at: int | None = None, path: Path = (), nearest: str = "", fix: str = "") -> None:
        where = locate(self.name, self.place(self.at if at is None else at), path)
        self.result.problems.append(UserError(what, where=where, nearest=nearest, fix=fix))
        if len(self.result.problems) == MAXIMUM_PROBLEMS:
            raise _Stop

    def stop(self, what: str, *, at: int | None = None, path: Path = (), fix: str = "") -> NoReturn:
        self.note(what, at=at, path=path, fix=fix)
        raise _Stop

    # Reading

    def space(self) -> None:
        """Skip white space, and comments, which are reported: JSON has none."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            start = self.at
            if self.text.startswith(("//", "#"), start):
                end = self.text.find("\n", start)
                self.at = len(self.text) if end < 0 else end
            elif self.text.startswith("/*", start):
                end = self.text.find("*/", start + 2)
                if end < 0:
                    self.stop("a comment that never ends", fix="remove it: JSON has no comments")
                self.at = end + 2
            else:
                return
            self.note("a comment: JSON has none", at=start, fix="remove the comment")

    def value(self, path: Path, depth: int) -> Any:
        if depth > MAXIMUM_DEPTH:
            self.stop(
                f"nested deeper than {MAXIMUM_DEPTH} levels", path=path, fix="no key needs more than a few levels"
            )
        if self.at == len(self.text):
            self.stop(
                "the file ends where a value should be", path=path, fix="write the value, and close every { and ["
            )
        sign = self.text[self.at]
        if sign == "{":
            return self.object(path, depth)
        if sign == "[":
            return self.array(path, depth)
        if sign in "\"'":
            return self.string(path)
        return self.word(path)

    def object(self, path: Path, depth: int) -> dict[str, Any]:
        opened = self.at
        members: dict[str, Any] = {}
        self.at += 1
        self.space()
        while not self.closed("}", opened, path):
            start = self.at
            key = self.key(path)
            here = (*path, key)
            if here in self.result.places:
                line = self.result.places[here][0]
                self.note(
                    f'the key "{key}" is there twice (first in line {line})',
                    at=start,
                    path=here,
                    fix="keep one of the two",
                )
            self.result.places[here] = self.place(start)
            self.space()
            if self.text.startswith((":", "="), self.at):
                if self.text[self.at] == "=":
                    self.note('"=" between key and value', path=here, nearest='":"', fix='write a ":"')
                self.at += 1
            else:
                self.stop(f'the key "{key}" has no ":" after it', path=here, fix=f'write "{key}": VALUE')
            self.space()
            members[key] = self.value(here, depth + 1)
            if here in self.result.broken:
                del members[key]
            self.comma("}", path)
        self.at += 1
        return members

    def array(self, path: Path, depth: int) -> list[Any]:
        opened = self.at
        items: list[Any] = []
        self.at += 1
        self.space()
        while not self.closed("]", opened, path):
            here = (*path, len(items))
            self.result.places[here] = self.place(self.at)
            items.append(self.value(here, depth + 1))
            self.comma("]", path)
        self.at += 1
        return items

    def closed(self, bracket: str, opened: int, path: Path) -> bool:
        if self.at == len(self.text):
            opening = "{" if bracket == "}" else "["
            self.stop(f'the "{opening}" opened here is never closed', at=opened, path=path, fix=f'add the "{bracket}"')
        return self.text[self.at] == bracket

    def comma(self, bracket: str, path: Path) -> None:
        """Pass the comma between two members; one too many, or one missing, is reported and reading goes on."""
        self.space()
        start = self.at
        if self.text.startswith(",", start):
            self.at += 1
            self.space()
            if self.text.startswith(bracket, self.at):
                self.note("a comma with nothing after it", at=start, path=path, fix="remove the comma")
            while self.text.startswith(",", self.at):
                self.note("two commas in a row", path=path, fix="remove one")
                self.at += 1
                self.space()
        elif start < len(self.text) and self.text[start] != bracket:
            if self.text[start] in "}]:":
                self.stop(
                    f'"{self.text[start]}" where a "," or "{bracket}" should be', path=path, fix="balance the brackets"
                )
            before = len(self.text[:start].rstrip())
            self.note("a comma is missing here", at=before, path=path, fix='write a ","')

    def key(self, path: Path) -> str:
        if self.text[self.at] in "\"'":
            return self.string(path)
        found = WORD.match(self.text, self.at)
        if not found:
            self.stop(f'"{self.text[self.at]}" where a key should be', path=path, fix='write "key": value')
        self.note(
            f"the key {found[0]} has no quotes", path=path, nearest=f'"{found[0]}"', fix="put it in double quotes"
        )
        self.at = found.end()
        return found[0]

    def string(self, path: Path) -> str:
        quote, start = self.text[self.at], self.at
        if quote == "'":
            self.note("single quotes", path=path, nearest='"', fix="JSON strings stand in double quotes")
        self.at += 1
        pieces: list[str] = []
        while True:
            if self.at >= len(self.text) or self.text[self.at] == "\n":
                self.stop(
                    "a string that never ends", at=start, path=path, fix=f"close it with {quote} on the same line"
                )
            sign = self.text[self.at]
            self.at += 1
            if sign == quote:
                break
            if sign == "\\":
                pieces.append(self.escape(path))
                continue
            if sign < " ":
                self.note(
                    f"control character U+{ord(sign):04X} in a string",
                    at=self.at - 1,
                    path=path,
                    fix="write it as an escape, \\t",
                )
            pieces.append(sign)
        text = "".join(pieces)
        try:
            # Two \u escapes may be the halves of one character; a half that stays alone cannot be written as UTF-8.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.note("half a surrogate pair in a string", at=start, path=path, fix="write the character itself")
            return text.encode("utf-8", "replace").decode("utf-8")

    def escape(self, path: Path) -> str:
        sign = self.text[self.at : self.at + 1]
        if sign in ESCAPES and sign:
            self.at += 1
            return ESCAPES[sign]
        digits = self.text[self.at + 1 : self.at + 5]
        if sign == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            self.at += 5
            return chr(int(digits, 16))
        self.note(
            f"\\{sign.strip()} is not a JSON escape",
            at=self.at - 1,
            path=path,
            fix="double the backslash, or write / in paths",
        )
        return "\\"

    def word(self, path: Path) -> Any:
        found = WORD.match(self.text, self.at)
        if not found:
            self.stop(f'"{self.text[self.at]}" where a value should be', path=path, fix="write a value")
        start, word = self.at, found[0]
        self.at = found.end()
        if word in CONSTANTS:
            return CONSTANTS[word]
        if NUMBER.fullmatch(word):
            return self.number(word, start, path)
        if word in FOREIGN:
            self.note(f"{word} is not JSON", at=start, path=path, nearest=FOREIGN[word], fix=f"write {FOREIGN[word]}")
            return CONSTANTS[FOREIGN[word]]
        self.result.broken.add(path)
        if word.lower().lstrip("+-") in ("nan", "infinity", "inf"):
            self.note(
                f"{word} is not a JSON number, and no setting can be that",
                at=start,
                path=path,
                fix="write a finite number",
            )
            return None
        try:
            guess = f"{float(word.replace('_', '')):g}"
        except ValueError:
            guess = f'"{word}"'
        self.note(
            f"{word[:60]} is no JSON value", at=start, path=path, nearest=guess, fix=f"write {guess}, if that is meant"
        )
        return None

    def number(self, word: str, start: int, path: Path) -> int | float | None:
        value = float(word)
        if math.isinf(value) or abs(value) >= 2**63:
            self.result.broken.add(path)
            self.note(
                f"the number {word[:24]}{'...' * (len(word) > 24)} is too large",
                at=start,
                path=path,
                fix="write a smaller number",
            )
            return None
        if not set(word) & set(".eE"):
            return int(word)
        # 1e3 is a fair way to write the whole number 1000; Python would call it a float.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value


def json_path(path: Path) -> str:
    """`$.datasets[0].weight`, as JSON tools write it."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def locate(name: str, place: tuple[int, int] | None, path: Path) -> str:
    """`my.json, line 4, column 3, $.n_head`."""
    parts = [name, *([f"line {place[0]}", f"column {place[1]}"] if place else []), *([json_path(path)] if path else [])]
    return ", ".join(parts)
