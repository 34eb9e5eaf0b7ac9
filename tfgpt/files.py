"""Local and gs:// paths behind one small set of functions, and writes that are whole or not there at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from tfgpt import buckets
from tfgpt.errors import Failure, UserError

PathLike = str | os.PathLike[str]


class FileStat(NamedTuple):
    """What tells one state of a file from another: `version` is mtime in ns, or the generation in a bucket."""

    size: int
    version: int


def text_of(path: PathLike) -> str:
    """`path` as a string; pathlib turns gs://b into gs:/b, and this turns it back.

    >>> text_of(Path("gs://my-bucket") / "a.txt")
    'gs://my-bucket/a.txt'
    """
    text = os.fspath(path)
    return "gs://" + text[4:] if re.match(r"gs:/[^/]", text) else text


def is_remote(path: PathLike) -> bool:
    """Whether `path` lives in a bucket rather than on this machine."""
    return text_of(path).startswith("gs://")


def join(folder: PathLike, *parts: str) -> str:
    """A path inside `folder`; parts that lead out of it (absolute, "..") are refused, so archives cannot climb.

    >>> join("gs://my-bucket/data", "2024", "a.txt")
    'gs://my-bucket/data/2024/a.txt'
    """
    base = text_of(folder)
    for part in parts:
        pieces = re.split(r"[/\\]", part) if os.name == "nt" else part.split("/")
        if ".." in pieces or part.startswith(("/", "gs:/")) or os.path.isabs(part) or "\0" in part:
            raise UserError(f"{part!r} leads out of its folder", where=base, fix="use a plain name inside the folder")
    return "/".join([base.rstrip("/"), *parts]) if is_remote(base) else os.path.join(base, *parts)


def stat(path: PathLike) -> FileStat:
    """Size and version; both equal means the content is very likely the same as before."""
    if is_remote(path):
        return FileStat(*buckets.stat(text_of(path)))
    found = os.stat(path)
    return FileStat(found.st_size, found.st_mtime_ns)


def size(path: PathLike) -> int:
    """Size in bytes."""
    return stat(path).size


def exists(path: PathLike) -> bool:
    """Whether a file or folder is at `path`."""
    return buckets.exists(text_of(path)) if is_remote(path) else os.path.exists(path)


def is_folder(path: PathLike) -> bool:
    """Whether `path` is a folder (in a bucket: whether objects lie below it)."""
    return buckets.is_folder(text_of(path)) if is_remote(path) else os.path.isdir(path)


def make_folder(path: PathLike) -> None:
    """Make a folder and its parents; a bucket needs none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def walk(path: PathLike) -> Iterator[tuple[str, int]]:
    """Path and size of every file below `path`, in the same order everywhere; of `path` itself if it is a file.

    Links are followed (never in a circle); pipes, sockets and devices are left out; a dangling link has size 0.

    >>> list(walk("my_texts"))                                       # doctest: +SKIP
    [('my_texts/a.txt', 1204), ('my_texts/b/c.txt', 77)]
    """
    base = text_of(path)
    if is_remote(base):
        if base.count("/") > 2 and not base.endswith("/") and not buckets.is_folder(base):
            yield base, buckets.stat(base)[0]
        else:
            yield from buckets.names(base)
        return
    found = os.stat(base)
    if modes.S_ISDIR(found.st_mode):
        yield from _walk(base, ((found.st_dev, found.st_ino),))
    else:
        yield base, found.st_size


def expand(pattern: PathLike, *, folders: bool = False) -> list[str]:
    """Files (and `folders`, if asked for) that a glob means, sorted: `*`, `?`, `[abc]`, and `**` for any depth.

    A path that exists is itself, whatever signs are in its name. Names that start with a dot need a pattern that does.

    >>> expand("gs://my-bucket/data/**/*.tfrecords")                 # doctest: +SKIP
    ['gs://my-bucket/data/train_0.tfrecords', 'gs://my-bucket/data/more/train_1.tfrecords']
    """
    text = text_of(pattern)
    if is_remote(text):
        return buckets.matching(text, folders)
    found = {text} if os.path.lexists(text) else set(glob.iglob(text, recursive=True))
    # iglob gives the start of "**" itself with a slash behind it.
    return sorted(name.rstrip(os.sep) or name for name in found if folders or not os.path.isdir(name))


def open_read(path: PathLike, start: int = 0) -> BinaryIO:
    """A binary stream from byte `start` on; in a bucket it stays with the version it opened."""
    if is_remote(path):
        return buckets.open_read(text_of(path), start)
    stream = open(path, "rb")
    stream.seek(start)
    return stream


def read_bytes(path: PathLike) -> bytes:
    """The whole content of a small file."""
    with open_read(path) as stream:
        return stream.read()


@contextmanager
def atomic_writer(path: PathLike, mode: str = "wb", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place only when the block ends well and the bytes are on disk.

    In a bucket the object appears when the block ends. A full disk is a `Failure`, and the old file stays.

    >>> with atomic_writer("out.json", "w", encoding="utf-8") as f:
    ...     _ = f.write("{}")
    """
    if is_remote(path):
        with buckets.writer(text_of(path), mode, **kwargs) as stream:
            yield stream
        return
    # Through a link, the file it points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with open(temporary, mode, **kwargs) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Failure(
                f"no room to write {target.name}: {os.strerror(error.errno)}; what was there before is unchanged",
                where=str(target.parent),
                fix="free some space, or choose another folder on a larger disk, and run the same command again",
            ) from error
        raise


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(data)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def copy_in(local: PathLike, path: PathLike) -> None:
    """Copy a file of this machine to `path`, a bucket as a rule; size and checksum are compared afterwards."""
    if is_remote(path):
        buckets.upload(os.fspath(local), text_of(path))
    else:
        with atomic_writer(path) as target, open(local, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)


def copy_out(path: PathLike, local: PathLike) -> None:
    """Copy `path`, in a bucket as a rule, to a file of this machine; it appears only when size and checksum agree."""
    if is_remote(path):
        with atomic_writer(local) as target:
            buckets.download(text_of(path), target)
    else:
        copy_in(path, local)


def move(source: PathLike, target: PathLike) -> None:
    """Give a file another path, on the same disk or in the cloud; what was at `target` is replaced."""
    if is_remote(source) != is_remote(target):
        raise UserError(
            "a move between a bucket and this machine is a copy",
            where=f"{text_of(source)} -> {text_of(target)}",
            fix="use copy_in or copy_out, then remove",
        )
    if is_remote(source):
        buckets.move(text_of(source), text_of(target))
    else:
        os.replace(source, target)
        sync_folder(Path(target).absolute().parent)


def remove(path: PathLike) -> None:
    """Delete a file; one that is not there is no error."""
    if is_remote(path):
        buckets.remove(text_of(path))
    else:
        Path(path).unlink(missing_ok=True)


def sync_folder(folder: PathLike) -> None:
    """Make a rename inside `folder` survive a power cut (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: PathLike) -> str:
    """Hex digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open_read(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads and data that serve many projects lie: $TFGPT_CACHE, or .cache/tfgpt in the user's home."""
    return Path(os.environ.get("TFGPT_CACHE") or Path.home() / ".cache" / "tfgpt")


def require_space(folder: PathLike, needed: int, *, purpose: str) -> None:
    """Stop before a long job that the disk cannot hold; `needed` in bytes. A bucket has no end."""
    if is_remote(folder):
        return
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Failure(
            f"not enough disk space for {purpose}: about {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free",
            where=str(place),
            fix="free some space, or choose another folder on a larger disk",
        )


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, int]]:
    entries = []
    with os.scandir(folder) as scan:
        for entry in scan:
            try:
                found = entry.stat()
            except OSError:
                found = entry.stat(follow_symlinks=False)
            is_dir = modes.S_ISDIR(found.st_mode)
            # A folder sorts as "name/", which makes the whole walk come out in the order of full paths, as in a bucket.
            entries.append((entry.name + "/" * is_dir, entry.path, found, is_dir))
    for _, path, found, is_dir in sorted(entries, key=lambda entry: entry[0]):
        if is_dir:
            mark = (found.st_dev, found.st_ino)
            if mark not in above:
                yield from _walk(path, (*above, mark))
        elif modes.S_ISREG(found.st_mode):
            yield path, found.st_size
        elif modes.S_ISLNK(found.st_mode):
            yield path, 0
