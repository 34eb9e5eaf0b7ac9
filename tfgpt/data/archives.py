"""The members of a tar archive, read once from front to back in bounded memory; damage never passes for the end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from tfgpt.data.streams import forwarded

LONGEST_HEADER = 1 << 20  # bytes of a name or of extended fields
HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Damage(tarfile.TarError):
    """An archive that cannot be read any further; what was read before stands."""


def members(stream: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, BinaryIO | None]]:
    """Each member with a stream of its content (None for a folder, a link or a sparse file), never written anywhere."""
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or memory would grow with the archive
            content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            # tarfile's own stream cannot say whether it is seekable, which the csv reader asks.
            yield member, forwarded(content) if content else None  # type: ignore[arg-type]
        while rest := archive.fileobj.read(1 << 20):  # type: ignore[union-attr]
            if rest.strip(b"\0"):
                raise Damage("more data follows behind the end mark")


class _Member(tarfile.TarInfo):
    """tarfile takes a header that it cannot read, or that is missing, for the archive's end; here it is damage."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise Damage("the end mark is missing") from None
        except tarfile.HeaderError as error:
            raise Damage(f"{error} at byte {archive.offset}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in HEADERS and self.size > LONGEST_HEADER:
            raise Damage(f"a name of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]
