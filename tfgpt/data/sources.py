"""Which files an encode reads, what they are, and how their bytes are cut into units of work.

The cut depends on nothing but names and sizes, so a killed job, a second machine or another number of processes all see
the same units in the same order. That is what makes the output the same to the last byte.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tfgpt import files
from tfgpt.errors import UserError
from tfgpt.progress import Progress

PIECE = 8 << 20  # bytes: a longer text is cut at a line end into documents of about this size
UNIT_BYTES = 4 << 20  # bytes of small files, or of a line-oriented file, that one worker takes at a time
UNIT_FILES = 512
CONTENT = "sha256:"

COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".xz": "xz"}
FORMATS = {
    ".txt": "text", ".text": "text", ".md": "text",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".tar": "tar", ".bin": "bin", ".npz": "npz", ".chat": "chat",
}  # fmt: skip
SHORT_FORMS = {".tgz": ".tar.gz", ".txz": ".tar.xz"}


@dataclass(frozen=True)
class Source:
    """One input file."""

    path: str
    size: int  # bytes on disk
    version: str  # changes when the content does: modification time, or a bucket's generation
    format: str
    compression: str = ""
    wide: bool = False  # a text whose lines do not end with the byte 0x0A alone cannot be cut at any place


@dataclass(frozen=True)
class Unit:
    """A piece of work: several small files, a byte range of a large one, or one file that must be read front to back."""

    number: int
    kind: str  # "files" | "range" | "stream"
    sources: tuple[Source, ...]
    start: int = 0
    end: int = 0

    @property
    def size(self) -> int:
        """Bytes on disk that this unit stands for."""
        return self.end - self.start if self.kind == "range" else sum(s.size for s in self.sources)


@dataclass(frozen=True)
class Found:
    """What a search for input files came to."""

    sources: list[Source]
    skipped: Counter[str] = field(default_factory=Counter)  # unknown suffix -> number of files passed by


def identify(path: str) -> tuple[str, str] | None:
    """Format and compression that a file's name tells, or None.

    >>> identify("a/b.jsonl.zst"), identify("x.tgz"), identify("photo.png")
    (('jsonl', 'zst'), ('tar', 'gz'), None)
    """
    name = path.rsplit("/", 1)[-1].lower()
    for short, long in SHORT_FORMS.items():
        name = name[: -len(short)] + long if name.endswith(short) else name
    compression = ""
    for suffix, kind in COMPRESSIONS.items():
        if name.endswith(suffix):
            name, compression = name[: -len(suffix)], kind
            break
    suffix = "." + name.rsplit(".", 1)[-1] if "." in name else ""
    if suffix in FORMATS:
        return FORMATS[suffix], compression
    # A compressed file without an inner suffix is text more often than not.
    return ("text", compression) if compression and not suffix else None


def find(
    inputs: Sequence[str], *, format: str | None = None, leave_out: str | None = None, encoding: str = "utf-8"
) -> Found:
    """All input files of folders (recursive), globs, files and gs:// paths: sorted, each once.

    A file that is named itself is taken as text when its suffix tells nothing; one met inside a folder is passed by. So is
    what an encode makes in the folder `leave_out`: the output may lie inside the input.
    """
    chosen: dict[str, Source] = {}
    met: set[str] = set()  # the same file under another spelling, or through a link, counts once
    skipped: Counter[str] = Counter()
    for item in inputs:
        listed, named = _listing(item)
        before = len(chosen) + sum(skipped.values())
        for path in listed:
            real = path if files.is_remote(path) else os.path.realpath(path)
            if real in met or (leave_out and _made_by_us(path, leave_out)):
                before -= 1
                continue
            met.add(real)
            known = identify(path)
            if known is None and not named and format is None:
                name = path.rsplit("/", 1)[-1]
                skipped["." + name.rsplit(".", 1)[-1] if "." in name else "(no suffix)"] += 1
                continue
            kind, compression = known or ("text", "")
            kind = format or kind
            try:
                status = files.stat(path)
                would_be_cut = kind == "jsonl" or (kind == "text" and status.size > PIECE)
                cannot_be_cut = would_be_cut and not compression and _is_wide(path, encoding)
            except OSError:  # a link to nowhere, or a file that went away
                skipped["(unreadable)"] += 1
                continue
            chosen[path] = Source(path, status.size, str(status.version), kind, compression, cannot_be_cut)
        if len(chosen) + sum(skipped.values()) == before:
            raise UserError(
                f"no input file in {item}", where=str(item), fix="name a folder, a file or a glob that matches"
            )
    if not chosen:
        kinds = ", ".join(f"{count} × {suffix}" for suffix, count in skipped.most_common(5))
        raise UserError(
            f"none of the files found can be read as text ({kinds})",
            nearest=", ".join(sorted(FORMATS)) + " (each also .gz, .zst, .xz)",
            fix="rename them, or say what they are with --format text",
        )
    return Found(sorted(chosen.values(), key=lambda source: source.path), skipped)


def plan(sources: Sequence[Source]) -> list[Unit]:
    """Cut the sources into units, in order."""
    units: list[Unit] = []
    group: list[Source] = []
    group_bytes = 0

    def close_group() -> None:
        nonlocal group, group_bytes
        if group:
            units.append(Unit(len(units), "files", tuple(group)))
        group, group_bytes = [], 0

    for source in sources:
        plain_text = source.format in ("text", "chat") and not source.compression
        if plain_text and source.size <= PIECE:
            if group_bytes + source.size > UNIT_BYTES or len(group) >= UNIT_FILES:
                close_group()
            group.append(source)
            group_bytes += source.size
            continue
        close_group()
        if not (source.compression or source.wide) and source.format in ("text", "jsonl", "bin"):
            step = UNIT_BYTES if source.format in ("jsonl", "bin") else PIECE
            for start in range(0, max(source.size, 1), step):
                units.append(Unit(len(units), "range", (source,), start, min(start + step, source.size)))
        else:
            units.append(Unit(len(units), "stream", (source,)))
    close_group()
    return units


def listing(found: Sequence[Source]) -> str:
    """Hex digest over names, sizes and versions of the input files; over contents alone after `by_content`."""
    digest = hashlib.sha256()
    for source in found:
        name = "" if source.version.startswith(CONTENT) else source.path
        line = f"{name}\0{source.size}\0{source.version}\0{source.format}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def by_content(found: Sequence[Source]) -> list[Source]:
    """The same files with their content's sha256 as version, so that copies and touched files count as the same."""
    with Progress("read", total=sum(source.size for source in found)) as bar:
        out = []
        for source in found:
            out.append(replace(source, version=CONTENT + files.sha256(source.path)))
            bar.update(source.size)
    return out


def _is_wide(path: str, encoding: str) -> bool:
    from tfgpt.data import streams

    with files.open_read(path) as stream:
        return bool(streams.wide(stream.read(4), encoding))


def _listing(item: str) -> tuple[Iterator[str], bool]:
    """Paths below one input, and whether the input named a file itself."""
    if files.is_folder(item):
        return (path for path, _ in files.walk(item) if not _hidden(path, item)), False
    if files.exists(item):
        return iter([item]), True
    if any(sign in item for sign in "*?["):
        return iter(files.expand(item)), True
    raise UserError(
        f"there is no file or folder {item}",
        where=str(item),
        fix="check the path; quote a glob so that it reaches tfgpt",
    )


def _made_by_us(path: str, output: str) -> bool:
    """Whether a path is part of a data set in the folder `output`."""
    if files.is_remote(path) != files.is_remote(output):
        return False
    if not files.is_remote(path):
        path, output = os.path.abspath(path), os.path.abspath(output)
    if not path.startswith(output.rstrip("/") + "/"):
        return False
    first = path[len(output.rstrip("/")) + 1 :].split("/")[0]
    return first in ("ledger.json", "tokenizer") or ".tfrecords" in first


def _hidden(path: str, below: str) -> bool:
    return any(part.startswith(".") for part in path[len(below) :].strip("/").split("/"))
