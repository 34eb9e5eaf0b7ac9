"""One file over HTTP: resumed where it stopped, checked, and under its final name only when it is whole and right."""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3

from tfgpt import __version__, files, locks
from tfgpt.errors import Failure
from tfgpt.progress import Progress

PASSING = {408, 425, 429, 500, 502, 503, 504}
PIECE = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server. Times in seconds; a stream slower than `slowest` bytes a `window` counts as stuck."""

    connect: float = 15.0
    read: float = 30.0
    tries: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0
    window: float = 60.0
    slowest: int = 32_768


class Receipt(NamedTuple):
    """What has arrived, and from where."""

    size: int
    sha256: str
    url: str


class _Again(Exception):
    """This may work the next time; `wait` is what the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Useless(Exception):
    """This source will not give the file."""


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    label: str,
    size: int | None = None,
    sha256: str | None = None,
    ready: Callable[[Receipt], None] = lambda receipt: None,
    patience: Patience = Patience(),
) -> Receipt:
    """Fetch the first of `urls` that gives the right file, going on from what an earlier run left in `target`.part.

    `ready` is called when the file is whole and right, just before it takes the name `target`.

    >>> fetch(["https://example.org/a.bin"], Path("a.bin"), label="a.bin", size=1000)        # doctest: +SKIP
    Receipt(size=1000, sha256='5b3f...', url='https://example.org/a.bin')
    """
    part = target.with_name(target.name + ".part")
    said = []
    with _locked(part), requests.Session() as session:
        # Compressed answers would make sizes and byte ranges mean something else than the file's own.
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"tfgpt/{__version__}"})
        for url in urls:
            try:
                return _Source(session, url, target, part, label, size, sha256, ready, patience).fetch()
            except _Useless as error:
                said.append(f"\n    {url}: {error}")
    raise Failure(
        f"{target.name} could not be fetched{''.join(said)}",
        where=str(target),
        fix="run the same command again (it goes on where it stopped), or use --base_url MIRROR or --from_dir FOLDER",
    )


@dataclass(frozen=True)
class _Source:
    session: requests.Session
    url: str
    target: Path
    part: Path
    label: str
    size: int | None
    sha256: str | None
    ready: Callable[[Receipt], None]
    patience: Patience

    @property
    def note(self) -> Path:
        """Which version of which address the part is from."""
        return self.part.with_name(self.part.name + ".json")

    def fetch(self) -> Receipt:
        failures = 0
        while True:
            before = self.have()
            try:
                return self.accept(self.transfer(), resumed=before > 0)
            except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
                raise _Useless(_short(error)) from error
            except requests.exceptions.InvalidSchema as error:
                raise _Useless("only http:// and https:// addresses can be fetched") from error
            except (
                _Again,
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                ConnectionError,
                TimeoutError,
            ) as error:
                # A long file over a bad line may need many tries; only those that gain nothing are counted against it.
                failures = 1 if self.have() - before >= 1 << 20 else failures + 1
                # Where nobody answers at all, waiting long helps no one: the next source may.
                silent = isinstance(error, requests.ConnectionError) and not self.have()
                tries = min(3, self.patience.tries) if silent else self.patience.tries
                if failures >= tries:
                    raise _Useless(f"{_short(error)} ({failures} tries)") from error
                self.pause(failures, tries, error)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise Failure(
                        f"no room for {self.target.name}: {os.strerror(error.errno)}",
                        where=str(self.part),
                        fix="free some space and run the same command again, it goes on where it stopped",
                    ) from error
                raise

    def pause(self, failures: int, tries: int, error: Exception) -> None:
        # Jitter keeps a whole class of students from knocking in the same second again.
        delay = self.patience.wait * 2 ** (failures - 1) * random.uniform(1.0, 2.0)
        delay = min(max(delay, getattr(error, "wait", 0.0)), self.patience.longest_wait)
        print(
            f"{self.label}: {_short(error)}; try {failures + 1} of {tries} in {delay:.1f} s",
            file=sys.stderr,
        )
        time.sleep(delay)

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def transfer(self) -> str:
        """Bring the part to its full length; returns the MD5 the server states for the whole file, if any."""
        have, headers = self.have(), {}
        note = _read_note(self.note)
        if have and self.size == have and self.sha256:
            return ""
        tag = note.get("tag", "") if note.get("url") == self.url else ""
        # Without a mark of the version, two versions could be spliced, unless a checksum would tell.
        if have and (tag or self.sha256) and (self.size is None or have <= self.size):
            headers["Range"] = f"bytes={have}-"
            if tag:
                headers["If-Range"] = tag
        patience = (self.patience.connect, self.patience.read)
        with self.session.get(self.url, headers=headers, stream=True, timeout=patience) as answer:
            if answer.status_code == 416 and headers:
                stated = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
                if stated and int(stated[1]) == have == (self.size or have):
                    return _stated_md5(answer.headers)
                self.discard()
                raise _Again("the server does not know the rest of what is here; starting over")
            start, total = self.check(answer, have if headers else None)
            files.require_space(self.part.parent, (total or 0) - start, purpose=self.target.name)
            files.write_text(self.note, json.dumps({"url": self.url, "tag": _tag(answer.headers)}))
            self.copy(answer, start, total)
            return _stated_md5(answer.headers)

    def check(self, answer: requests.Response, asked: int | None) -> tuple[int, int | None]:
        """Where the answer starts and how long the whole file is; refuses answers that are no use."""
        if self.url.startswith("https:") and not answer.url.startswith("https:"):
            raise _Useless(f"leads to an address without encryption, {answer.url}")
        if answer.status_code in PASSING:
            raise _Again(
                f"status {answer.status_code} {answer.reason}", _seconds(answer.headers.get("Retry-After", ""))
            )
        if answer.status_code != 200 and not (answer.status_code == 206 and asked is not None):
            raise _Useless(f"status {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise _Useless(f"sends {answer.headers['Content-Encoding']} where plain bytes were asked for")
        length = _number(answer.headers.get("Content-Length", ""))
        start, total = 0, length
        if answer.status_code == 206:
            stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not stated or int(stated[1]) != asked:
                self.discard()
                raise _Again("the server sent another range than asked for; starting over")
            start = int(stated[1])
            total = _number(stated[3])
        if self.size is not None and total not in (None, self.size):
            raise _Useless(f"has {total:,} bytes where {self.size:,} are expected")
        return start, self.size if total is None else total

    def copy(self, answer: requests.Response, start: int, total: int | None) -> None:
        at, mark, marked, ended = start, start, time.monotonic(), False
        with (
            open(self.part, "r+b" if start else "wb") as stream,
            Progress(self.label, total=total, initial=start) as bar,
        ):
            stream.seek(start)
            while True:
                try:
                    piece = answer.raw.read1(PIECE, decode_content=False)
                except urllib3.exceptions.ProtocolError:
                    break
                if not piece:
                    ended = True
                    break
                at += len(piece)
                if total is not None and at > total:
                    raise _Useless(f"sends more than the {total:,} bytes it should")
                stream.write(piece)
                bar.update(len(piece))
                now = time.monotonic()
                if now - marked > self.patience.window:
                    if at - mark < self.patience.slowest:
                        raise _Again(f"stuck at {at:,} bytes")
                    mark, marked = at, now
        if not ended or (total is not None and at < total):
            raise _Again(f"the connection ended at {at:,} of {f'{total:,}' if total else 'unknown'} bytes")

    def accept(self, md5: str, *, resumed: bool) -> Receipt:
        """Give the part its final name if it is right; otherwise throw it away."""
        size, found, found_md5 = self.have(), hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with open(self.part, "r+b") as stream:
            os.fsync(stream.fileno())
            while piece := stream.read(1 << 20):
                found.update(piece)
                if md5:
                    found_md5.update(piece)
        problem = ""
        if self.size is not None and size != self.size:
            problem = f"gave {size:,} bytes where {self.size:,} are expected"
        elif self.sha256 is not None and found.hexdigest() != self.sha256:
            problem = f"gave a wrong file: sha256 {found.hexdigest()} instead of {self.sha256}"
        elif md5 and found_md5.hexdigest() != md5:
            problem = f"gave a damaged file: MD5 {found_md5.hexdigest()}, announced {md5}"
        if problem:
            self.discard()
            # What was here before may be to blame, not this source.
            raise _Again(f"{problem}; starting over") if resumed else _Useless(problem)
        receipt = Receipt(size, found.hexdigest(), self.url)
        self.ready(receipt)
        os.replace(self.part, self.target)
        files.sync_folder(self.target.parent)
        self.note.unlink(missing_ok=True)
        return receipt

    def discard(self) -> None:
        # Emptied, not removed: the lock of this run is held on it.
        os.truncate(self.part, 0)
        self.note.unlink(missing_ok=True)


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Keep a second run from writing into the same part at the same time."""
    with open(part, "ab") as stream:
        if not locks.take(stream.fileno()):
            raise Failure(
                f"another run is fetching {part.stem} at this moment", where=str(part), fix="wait for it to end"
            )
        try:
            yield
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _read_note(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _tag(headers: Mapping[str, str]) -> str:
    """What If-Range may name: a strong ETag, or the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _stated_md5(headers: Mapping[str, str]) -> str:
    """The MD5 of the whole file as Google's (x-goog-hash) and Microsoft's (x-ms-blob-content-md5) stores state it."""
    google = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", headers.get("x-goog-hash", ""))
    text = google[1] if google else headers.get("x-ms-blob-content-md5", "")
    if not text and "Content-Range" not in headers:
        text = headers.get("Content-MD5", "")
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == 16 else ""


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _short(error: BaseException) -> str:
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return "no answer in time"
    if isinstance(error, _Again):
        return str(error)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    line = (str(reason or error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^HTTPS?Connection\(.*?\): ", "", line)[:200]
