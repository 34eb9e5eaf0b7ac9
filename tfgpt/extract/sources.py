"""Where pages come from: archives, folders and single files, each read one page at a time."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tfgpt.errors import Problems, UserError
from tfgpt.extract import names, streams
from tfgpt.extract.limits import Limits
from tfgpt.extract.tar import BLOCK, Reader, is_tar

ARCHIVE = re.compile(r"\.(?:tar(?:\.(?:gz|xz|bz2|zst))?|tgz|txz|tbz2?|tzst|xz)$", re.IGNORECASE)
PAGE = re.compile(r"\.x?html?(?:\.(?:gz|xz|bz2|zst))?$", re.IGNORECASE)
# The openwebtext downloader calls its pages .txt, and crawlers leave the suffix away.
MEMBER = re.compile(r"(?:\.(?:x?html?|txt)(?:\.(?:gz|xz|bz2|zst))?|(?:^|/)[^./]+)$", re.IGNORECASE)


class Unusable(Exception):
    """A page that is not even tried, and why."""


@dataclass
class Page:
    """One page, not yet read; `refused` says why a member is no page at all."""

    member: str
    group: str
    stamp: str
    read: Callable[[], bytes]
    refused: str = ""


@dataclass(frozen=True)
class Source:
    """Something that pages come from. `path` is absolute: it names the source in the journal."""

    path: Path
    kind: str  # "archive", "folder" or "files"
    members: tuple[str, ...] = ()  # of "files": which ones

    def stamp(self) -> str:
        """Changes when an archive does."""
        stat = self.path.stat()
        return f"{stat.st_size}:{stat.st_mtime_ns}"

    def size(self) -> int:
        """Bytes that reading the whole source will take from the disk."""
        if self.kind == "archive":
            return self.path.stat().st_size
        return sum(_status(path)[1] for path in self._files())

    def pages(self, limits: Limits, advance: streams.Advance) -> Iterator[Page]:
        """Every page in a fixed order; read a page before asking for the next one. May raise streams.Damage."""
        if self.kind == "archive":
            yield from self._archived(limits, advance)
            return
        for path in self._files():
            stamp, _, refused = _status(path)
            months = (names.month(part) for part in reversed(path.parts[:-1]))
            yield Page(
                path.relative_to(self.path).as_posix(),
                next(filter(None, months), "") or names.group(self.path.name),
                stamp,
                partial(_read_file, path, limits.max_bytes, advance),
                refused,
            )

    def _archived(self, limits: Limits, advance: streams.Advance) -> Iterator[Page]:
        group = names.group(self.path.name)
        try:
            opened = streams.opened(self.path, advance)
        except streams.UNREADABLE as error:
            raise streams.Damage(str(error)) from error
        with opened as stream:
            reader = Reader(stream, max_bytes=limits.max_archive_bytes)
            for entry in reader.entries():
                refused = entry.refused
                if refused is None and not MEMBER.search(entry.name):
                    refused = "not a page by its name"
                if refused == "":
                    continue  # folders are nothing to speak of

                def read(size: int = entry.size) -> bytes:
                    if size > limits.max_bytes:
                        raise Unusable(f"larger than {limits.max_bytes} bytes")
                    return _unpack_page(reader.read(size), limits.max_bytes)

                yield Page(entry.name, group, str(entry.size), read, refused or "")

    def _files(self) -> Iterator[Path]:
        if self.kind == "files":
            yield from (self.path / member for member in self.members)
            return
        for folder, below, files in os.walk(self.path, onerror=_unreadable):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(files) if PAGE.search(name))


def discover(paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """The sources that `paths` name: archives, folders (with the archives in them) and files; every mistake in one report.

    >>> [source.kind for source in discover(["downloads/RS_2017-04_data.xz", "page.html"])]   # doctest: +SKIP
    ['archive', 'files']
    """
    sources: dict[Source, None] = {}
    problems: list[UserError] = []
    single: dict[Path, list[str]] = {}
    for given in paths:
        path = Path(os.path.abspath(given))
        try:
            if path.is_dir():
                sources.update(dict.fromkeys(_in_folder(path)))
            elif path.exists() and not path.is_file():
                raise UserError("neither a file nor a folder", where=str(given))
            elif _is_archive(path):
                sources[Source(path, "archive")] = None
            else:
                single.setdefault(path.parent, []).append(path.name)
        except UserError as error:
            problems.append(error)
        except OSError as error:
            problems.append(UserError(f"cannot read this input: {error.strerror or error}", where=str(given)))
        except (*streams.UNREADABLE, streams.Damage) as error:
            problems.append(UserError(f"cannot unpack this input: {error}", where=str(given)))
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(f"{len(problems)} inputs cannot be used", problems)
    for folder, members in single.items():
        sources[Source(folder, "files", tuple(dict.fromkeys(members)))] = None
    return list(sources)


def _in_folder(folder: Path) -> Iterator[Source]:
    archives, pages = [], False
    for place, below, files in os.walk(folder, onerror=_unreadable):
        below[:] = sorted(name for name in below if not name.startswith("."))
        archives += [Path(place, name) for name in sorted(files) if ARCHIVE.search(name) and not PAGE.search(name)]
        pages = pages or any(PAGE.search(name) for name in files)
    if not archives and not pages:
        raise UserError(
            "no HTML in this folder",
            where=str(folder),
            nearest="files ending in .html, .htm or .xhtml (also .gz, .xz, .zst), and tar archives",
            fix=f"name files with other endings one by one: tfgpt extract {folder}/*.txt --output DIR",
        )
    yield from (Source(path, "archive") for path in archives)
    if pages:
        yield Source(folder, "folder")


def _is_archive(path: Path) -> bool:
    """By content, not by name; an archive too damaged to show what it is goes by its name."""
    streams.refuse_foreign(path)
    named = bool(ARCHIVE.search(path.name)) and not PAGE.search(path.name)
    try:
        with streams.opened(path, lambda amount: None) as stream:
            head = streams.read_exactly(stream, BLOCK)
    except streams.UNREADABLE:
        if not os.access(path, os.R_OK):
            raise
        return named
    return (len(head) == BLOCK and is_tar(head)) or named


def _unreadable(error: OSError) -> None:
    raise streams.Damage(f"{error.strerror}: {error.filename}") from error


def _status(path: Path) -> tuple[str, int, str]:
    """A file's stamp, its size, and why it is no page; a file that is gone is found out when it is read."""
    try:
        status = path.stat()
    except OSError:
        return "", 0, ""
    # Reading a pipe or a device that somebody called x.html would never end.
    refused = "" if stat.S_ISREG(status.st_mode) else "neither a file nor a link to one"
    return f"{status.st_size}:{status.st_mtime_ns}", status.st_size, refused


def _read_file(path: Path, max_bytes: int, advance: streams.Advance) -> bytes:
    try:
        with streams.opened(path, advance) as stream:
            data = streams.read_exactly(stream, max_bytes + 1)
    except streams.UNREADABLE as error:
        raise Unusable(f"unreadable: {error}") from error
    if len(data) > max_bytes:
        raise Unusable(f"larger than {max_bytes} bytes")
    return data


def _unpack_page(data: bytes, max_bytes: int) -> bytes:
    """A page that is compressed inside its archive, unpacked within the same bound."""
    if not streams.compression(data[:8]):
        return data
    try:
        with streams.unpacked(io.BytesIO(data)) as stream:
            data = streams.read_exactly(stream, max_bytes + 1)
    except streams.UNREADABLE as error:
        raise Unusable(f"unreadable: {error}") from error
    if len(data) > max_bytes:
        raise Unusable(f"larger than {max_bytes} bytes")
    return data
