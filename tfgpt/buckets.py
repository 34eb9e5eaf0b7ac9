"""Google Cloud Storage behind `tfgpt.files`: what a gs:// path needs, and nothing of Google's imported before one is met.

Set STORAGE_EMULATOR_HOST (for example http://127.0.0.1:9023) to work against an emulator, with no credentials.
"""

from __future__ import annotations

import base64
import glob
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, Any, BinaryIO

from tfgpt.errors import Failure, UserError

# One request of a streaming read or write: hides the latency of a request, lets many streams be open at once, and is a
# multiple of 256 KiB, as the service wants for uploads.
PIECE = 8 << 20


def split(path: str) -> tuple[str, str]:
    """Bucket and object name of a gs:// path.

    >>> split("gs://my-bucket/data/a.txt")
    ('my-bucket', 'data/a.txt')
    """
    bucket, _, name = path[len("gs://") :].partition("/")
    if not bucket:
        raise UserError("a gs:// path needs the name of a bucket", where=path, fix="write gs://BUCKET/FOLDER/FILE")
    return bucket, name


def stat(path: str) -> tuple[int, int]:
    """Size in bytes and generation of an object."""
    with _clear(path):
        blob = _blob(path)
        return int(blob.size), int(blob.generation)


def exists(path: str) -> bool:
    """Whether `path` is an object or a folder that holds one."""
    return _is_object(path) or is_folder(path)


def _is_object(path: str) -> bool:
    name = split(path)[1]
    with _clear(path):
        return bool(name) and not name.endswith("/") and bool(_handle(path).exists())


def is_folder(path: str) -> bool:
    """Whether objects lie below `path`: a bucket has no folders of its own."""
    bucket, name = split(path)
    prefix = name.rstrip("/") + "/" if name else None
    with _clear(path):
        return any(True for _ in _client().list_blobs(bucket, prefix=prefix, max_results=1))


def names(path: str) -> Iterator[tuple[str, int]]:
    """Path and size of every object below the folder `path`, sorted."""
    bucket, name = split(path)
    yield from _list(path, bucket, name.rstrip("/") + "/" if name else "")


def matching(pattern: str, folders: bool) -> list[str]:
    """Objects (and `folders`) that a glob means, sorted; a pattern without signs means the path itself."""
    bucket, name = split(pattern)
    if glob.has_magic(bucket):
        raise UserError("the name of a bucket cannot be a pattern", where=pattern, fix="name the bucket")
    if not glob.has_magic(name):
        return [pattern.rstrip("/")] if (is_folder(pattern) and folders) or _is_object(pattern) else []
    fits, found = re.compile(_regex(name)), set()
    for path, _ in _list(pattern, bucket, name[: re.search(r"[*?[]", name).start()]):  # type: ignore[union-attr]
        candidate = split(path)[1]
        while candidate:
            if fits.fullmatch(candidate + "/"):
                found.add(f"gs://{bucket}/{candidate}")
            candidate = candidate.rpartition("/")[0] if folders else ""
    return sorted(found)


def _list(path: str, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    with _clear(path):
        for blob in _client().list_blobs(bucket, prefix=prefix or None):
            # Consoles make empty objects named "folder/" to show a folder; they hold nothing.
            if not blob.name.endswith("/"):
                yield f"gs://{bucket}/{blob.name}", int(blob.size)


def _regex(pattern: str) -> str:
    """The regular expression of a glob as Python's own glob reads it: names with a leading dot only by a dot."""
    pieces = []
    for part in pattern.split("/"):
        if part == "**":
            pieces.append("(?:(?![.])[^/]+/)*")
            continue
        text = re.sub(r"\[(!?)(.[^\]]*)\]|\*+|.", _sign, part, flags=re.DOTALL)
        pieces.append(("" if part.startswith(".") else "(?![.])") + text + "/")
    return "".join(pieces)


def _sign(found: re.Match[str]) -> str:
    if found[2]:
        members = found[2].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
        return f"[{'^/' if found[1] else ''}{members}]"
    return {"*": "[^/]*", "?": "[^/]"}.get(found[0][0], re.escape(found[0]))


def open_read(path: str, start: int = 0) -> BinaryIO:
    """A buffered, seekable stream over the object as it is now, from byte `start` on."""
    with _clear(path):
        stream = io.BufferedReader(_Reader(path, _blob(path)), buffer_size=PIECE)
    stream.seek(start)
    return stream


@contextmanager
def writer(path: str, mode: str, **kwargs: Any) -> Iterator[IO[Any]]:
    """Stream into an object that appears when the block ends well, and not at all when it does not."""
    if mode not in ("w", "wb"):
        raise ValueError(f"mode {mode!r}: an object of a bucket can only be written whole")
    with _clear(path):
        stream = _handle(path).open("wb", chunk_size=PIECE, ignore_flush=True)
        front = io.TextIOWrapper(stream, **kwargs) if mode == "w" else stream
        try:
            yield front
            if mode == "w":
                front.detach()
            stream.close()
        except BaseException:
            with suppress(Exception):
                if mode == "w":
                    front.detach()
            with suppress(Exception):
                stream.terminate()
            raise


def remove(path: str) -> None:
    """Delete an object; one that is not there is no error."""
    from google.api_core.exceptions import NotFound

    with _clear(path), suppress(NotFound):
        _handle(path).delete()


def move(source: str, target: str) -> None:
    """Copy an object inside the cloud, then delete the first: a crash in between leaves both, never neither."""
    with _clear(source):
        blob, copy = _blob(source), _handle(target)
        token = None
        while True:
            token, _, _ = copy.rewrite(blob, token=token)
            if token is None:
                break
        blob.delete()


def upload(local: str, path: str) -> None:
    """Send a file of this machine and compare the size and CRC-32C that the bucket then states."""
    check, size = _checksum(), 0
    with _clear(path):
        blob = _handle(path)
        blob.upload_from_filename(local)
    with open(local, "rb") as stream:
        while piece := stream.read(1 << 20):
            check.update(piece)
            size += len(piece)
    _compare(path, blob, size, check)


def download(path: str, stream: IO[bytes]) -> int:
    """Write the object into `stream`, compare size and CRC-32C with what the bucket states; returns the size."""
    with _clear(path):
        blob = _blob(path)
        check, size = _checksum(), 0
        with io.BufferedReader(_Reader(path, blob), buffer_size=PIECE) as source:
            while piece := source.read(PIECE):
                stream.write(piece)
                check.update(piece)
                size += len(piece)
        _compare(path, blob, size, check)
        return size


class _Reader(io.RawIOBase):
    """Byte ranges of one generation of an object, so that a stream never mixes an old and a new version."""

    def __init__(self, path: str, blob: Any) -> None:
        super().__init__()
        if blob.content_encoding == "gzip":
            # The service unpacks such objects on the way, and then neither sizes, offsets nor checksums hold.
            raise UserError(
                "the object is stored with Content-Encoding gzip, so that its size and offsets cannot be relied on",
                where=path,
                fix=f"gcloud storage objects update --clear-content-encoding {path}   (and name it .gz)",
            )
        self._path, self._blob, self._size, self._at = path, blob, int(blob.size), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._range(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._range(PIECE), b""))

    def _range(self, amount: int) -> bytes:
        end = min(self._at + amount, self._size)
        if self._at >= end:
            return b""
        with _clear(self._path):
            data: bytes = self._blob.download_as_bytes(start=self._at, end=end - 1, checksum=None, raw_download=True)
        if len(data) != end - self._at:
            raise Failure(
                f"the bucket sent {len(data)} of {end - self._at} bytes", where=f"{self._path}, byte {self._at}"
            )
        self._at = end
        return data


def _checksum() -> Any:
    import google_crc32c

    make: Any = google_crc32c.Checksum
    return make()


def _compare(path: str, blob: Any, size: int, check: Any) -> None:
    found = base64.b64encode(check.digest()).decode("ascii")
    if size != int(blob.size) or found != blob.crc32c:
        raise Failure(
            f"the copy differs: {size} bytes, CRC-32C {found} here; {blob.size} bytes, {blob.crc32c} in the bucket",
            where=path,
            fix="run the same command again",
        )


def _handle(path: str) -> Any:
    bucket, name = split(path)
    if not name or name.endswith("/"):
        raise UserError("this names a folder of a bucket, not an object", where=path, fix="add the name of the file")
    return _client().bucket(bucket).blob(name)


def _blob(path: str) -> Any:
    """The object with its metadata; knowing its generation, it asks for that one alone from here on."""
    blob = _handle(path)
    blob.reload()
    return blob


def _client() -> Any:
    host = os.environ.get("STORAGE_EMULATOR_HOST", "")
    # Sessions must be shared neither by threads nor across a fork.
    return _connect(host, os.getpid(), threading.get_ident())


@lru_cache(maxsize=64)
def _connect(host: str, process: int, thread: int) -> Any:
    try:
        import google.cloud.storage as storage
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError as error:
        raise UserError("gs:// paths need google-cloud-storage", fix='pip install "tfgpt[gcs]"') from error
    if host:
        endpoint = host if "://" in host else f"http://{host}"
        # With STORAGE_EMULATOR_HOST set, the client itself goes without credentials.
        return storage.Client(project="emulator", client_options={"api_endpoint": endpoint})
    try:
        return storage.Client()
    except DefaultCredentialsError as error:
        raise UserError(
            "no credentials for Google Cloud Storage on this machine", fix="gcloud auth application-default login"
        ) from error
    except OSError as error:
        raise UserError(
            f"Google Cloud Storage cannot be set up: {error}", fix="gcloud config set project NAME"
        ) from error


@contextmanager
def _clear(path: str) -> Iterator[None]:
    """Turn what Google's library raises into errors that name the path."""
    _client()  # first of all says whether the library and the credentials are there
    import requests
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(2, "no such object or bucket", path) from error
    except (Forbidden, Unauthorized) as error:
        raise Failure(
            f"the bucket refuses: {_short(error)}",
            where=path,
            fix="gcloud auth application-default login   (with an account that may use this bucket)",
        ) from error
    except (GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse, requests.RequestException) as error:
        raise Failure(
            f"Google Cloud Storage: {_short(error)}", where=path, fix="run the same command again, it is safe to repeat"
        ) from error


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
