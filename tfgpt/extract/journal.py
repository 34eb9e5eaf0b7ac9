"""What has been done so far, in a file that is only ever appended to.

One line holds up to `chunk_size` finished pages: eight bytes of digest and one letter each, so that eight million pages
take about a hundred megabytes. A line that was cut short by a crash is passed over, and its pages are simply done again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from array import array
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

from tfgpt.errors import UserError
from tfgpt.files import sync_folder

KEPT, EMPTY, FAILED = "k", "e", "f"


def digest(member: str, stamp: str, name: str) -> int:
    """A page's identity within its source: its name there, its size or time, and its text file's name."""
    text = "\0".join((member, stamp, name)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class Journal:
    """The journal of one output folder.

    >>> journal = Journal("parsed/.extract/journal.jsonl", {"engine": "newspaper"})   # doctest: +SKIP
    >>> place, tag = journal.place("/data/RS_2017-04_data.xz", "RS_2017-04")          # doctest: +SKIP
    >>> journal.is_done(place, digest("1.html", "5120", "1"))                         # doctest: +SKIP
    True
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.places: dict[tuple[str, str], tuple[int, str]] = {}
        self.finished: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.done: dict[int, array[int]] = {}
        begun_with: dict[str, Any] | None = None
        whole = True
        if self.path.exists():
            with open(self.path, "rb") as stream:
                for line in stream:
                    whole = line.endswith(b"\n")
                    begun_with = self._replay(line, begun_with)
        for place, seen in self.done.items():
            self.done[place] = array("Q", sorted(seen))
        if begun_with is not None and begun_with != settings:
            changed = [key for key in settings if begun_with.get(key) != settings[key]]
            raise UserError(
                "this output was begun with other settings, and one data set should not mix them: "
                + ", ".join(f"{key} was {begun_with.get(key)!r} and is now {settings[key]!r}" for key in changed),
                where=str(self.path),
                fix="use the same settings as before, or another output folder",
            )
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self.file = os.open(self.path, flags, 0o644)
        if not whole:
            os.write(self.file, b"\n")
        if begun_with is None:
            self._append({"settings": settings})
            sync_folder(self.path.parent)

    def place(self, source: str, group: str) -> tuple[int, str]:
        """A number for the pages of `source` that go to `group`, and the tag that keeps their files apart from those
        of other sources in the same group: empty for the first that came, then "+2", "+3", ... (no page's name has a plus)."""
        key = (source, group)
        if key not in self.places:
            number, others = len(self.places), sum(other.casefold() == group.casefold() for _, other in self.places)
            self.places[key] = (number, f"+{others + 1}" if others else "")
            self._append({"place": number, "source": source, "group": group, "tag": self.places[key][1]})
        return self.places[key]

    def is_done(self, place: int, page: int) -> bool:
        """Whether an earlier run has finished this page."""
        seen = self.done.get(place)
        if not seen:
            return False
        at = bisect_left(seen, page)
        return at < len(seen) and seen[at] == page

    def add(self, place: int, pages: list[tuple[int, str, str, str]]) -> None:
        """Record finished pages: (digest, outcome, member, reason); their files must be on the disk by now."""
        self._append(
            {
                "place": place,
                "pages": base64.b64encode(array("Q", [page[0] for page in pages]).tobytes()).decode("ascii"),
                "outcomes": "".join(page[1] for page in pages),
                "failed": [[member, reason] for _, outcome, member, reason in pages if outcome == FAILED],
            }
        )

    def finish(self, source: str, stamp: str) -> None:
        """Record that an archive has been read to its end without damage."""
        self._append({"finished": source, "stamp": stamp})

    def is_finished(self, source: str, stamp: str) -> bool:
        """Whether the archive, unchanged since, needs no second reading."""
        return self.finished.get(source) == stamp

    def close(self) -> None:
        """Give the file back."""
        os.close(self.file)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n"
        # One write to a file opened for appending: a kill leaves at most one line cut short, at the end.
        while line:
            line = line[os.write(self.file, line) :]
        os.fsync(self.file)

    def _replay(self, line: bytes, begun_with: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            entry = json.loads(line)
            if "settings" in entry:
                return entry["settings"]
            if "source" in entry:
                self.places[entry["source"], entry["group"]] = (entry["place"], entry["tag"])
            elif "finished" in entry:
                self.finished[entry["finished"]] = entry["stamp"]
            elif "pages" in entry:
                seen = array("Q")
                seen.frombytes(base64.b64decode(entry["pages"], validate=True))
                if len(seen) == len(entry["outcomes"]):
                    self.done.setdefault(entry["place"], array("Q")).extend(seen)
                    self.counts.update(entry["outcomes"])
                    self.reasons.update(kind_of(reason) for _, reason in entry["failed"])
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return begun_with


def kind_of(reason: str) -> str:
    """What kind of failure a reason tells of, for counting: the part before the colon."""
    return reason.partition(":")[0]
