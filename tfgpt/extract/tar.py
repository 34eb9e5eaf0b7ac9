"""A tar archive read once from front to back, in bounded memory.

The standard library's tarfile takes a header it cannot read in the middle of an archive for the archive's end, and reads
a long name of any length into memory. Here both are damage, said aloud; the parsing of one header is still tarfile's.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from tfgpt.extract.streams import UNREADABLE, Damage, read_exactly

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 1 << 20
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.DIRTYPE: "",
}


@dataclass
class Entry:
    """One member of an archive; `refused` says why it is no page, and is None for a regular file."""

    name: str
    size: int
    refused: str | None


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes of a stream are the header of a tar archive.

    >>> is_tar(b"<!doctype html>")
    False
    """
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


class Reader:
    """Members of a tar archive, one after the other; `read` gives the present one's bytes."""

    def __init__(self, stream: IO[bytes], *, max_bytes: int) -> None:
        self.stream, self.max_bytes = stream, max_bytes
        self.offset, self.left, self.last = 0, 0, ""

    def entries(self) -> Iterator[Entry]:
        """All members; raises Damage, with the place, where the archive cannot be read on."""
        overrides: dict[str, str] = {}
        while True:
            self._skip()
            block = self._take(BLOCK, whole=False)
            if not block:
                raise self._damage("the archive ends without tar's end mark, it seems to have been cut")
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                return self._finish()
            except (tarfile.HeaderError, ValueError) as error:
                raise self._damage(f"damaged tar header ({error})") from None
            if header.size < 0:
                raise self._damage("damaged tar header (negative size)")
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *EXTENDED):
                body = self._metadata(header.size)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    overrides["path"] = body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                elif header.type in EXTENDED and header.type != tarfile.XGLTYPE:
                    overrides.update(self._records(body))
                continue
            size = header.size
            if "size" in overrides:
                if not re.fullmatch("[0-9]{1,18}", overrides["size"]):
                    raise self._damage("damaged tar header (size)")
                size = int(overrides["size"])
            name = overrides.get("GNU.sparse.name", overrides.get("path", header.name))
            refused = None if header.type in REGULAR else KINDS.get(header.type, "of an unknown type")
            if any(key.startswith("GNU.sparse") for key in overrides):
                refused = KINDS[tarfile.GNUTYPE_SPARSE]
            if header.type == tarfile.GNUTYPE_SPARSE:
                self._skip_sparse_map(block)
            overrides = {}
            # Links and devices may state a size but carry no bytes, as tar itself reads them.
            self.left = size if header.type not in KINDS or header.type == tarfile.GNUTYPE_SPARSE else 0
            self.left += -self.left % BLOCK
            self.last = name
            yield Entry(name, size, refused)

    def read(self, size: int) -> bytes:
        """The first `size` bytes of the present member."""
        data = self._take(size)
        self.left -= size
        return data

    def _metadata(self, size: int) -> bytes:
        if size > LONGEST_HEADER:
            raise self._damage(f"a name of {size} bytes")
        return self._take(size + -size % BLOCK)[:size]

    def _records(self, body: bytes) -> Iterator[tuple[str, str]]:
        """The fields of a POSIX extended header: lines of `LENGTH KEY=VALUE`."""
        while body.strip(b"\0"):
            digits, found, _ = body.partition(b" ")
            length = int(digits) if found and digits.isdigit() and len(digits) < 8 else 0
            key, equals, value = body[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or not len(digits) < length <= len(body):
                raise self._damage("damaged extended header")
            yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
            body = body[length:]

    def _skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            more = self._take(BLOCK)[504]

    def _skip(self) -> None:
        while self.left:
            self.left -= len(self._take(min(self.left, 1 << 20)))

    def _take(self, amount: int, *, whole: bool = True) -> bytes:
        if self.offset + amount > self.max_bytes:
            raise self._damage(f"it unpacks to more than {self.max_bytes} bytes (--max_archive_bytes)")
        try:
            data = read_exactly(self.stream, amount)
        except UNREADABLE as error:
            raise self._damage(str(error) or type(error).__name__) from error
        if len(data) < amount and (whole or data):
            self.offset += len(data)
            raise self._damage("the archive ends in the middle of a member")
        self.offset += len(data)
        return data

    def _finish(self) -> None:
        # Reading on to the end lets the decompressor check its sums; tar pads to 10 KiB, so there is little to read.
        left = 1 << 20
        while left > 0 and (piece := self._take_rest(min(left, 1 << 16))):
            if piece.strip(b"\0"):
                raise self._damage("more data follows after tar's end mark")
            left -= len(piece)
        if not left:
            raise self._damage("more than 1 MiB of zeros follow after tar's end mark")

    def _take_rest(self, amount: int) -> bytes:
        try:
            piece = self.stream.read(amount)
        except UNREADABLE as error:
            raise self._damage(str(error) or type(error).__name__) from error
        self.offset += len(piece)
        return piece

    def _damage(self, what: str) -> Damage:
        after = f', after member "{self.last}"' if self.last else ""
        return Damage(f"{what}, at byte {self.offset} of the unpacked archive{after}")
