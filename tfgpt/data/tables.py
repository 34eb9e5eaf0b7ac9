"""Tables with a column of text: .csv, .tsv and .parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from tfgpt.data.raw import MAX_DOCUMENT, Raw
from tfgpt.data.sources import COMPRESSIONS
from tfgpt.errors import UserError


def read_csv(stream: BinaryIO, path: str, key: str) -> Iterator[Raw]:
    """The cell under `key` of every row; blank lines are no rows, and a file of nothing else has no documents."""
    csv.field_size_limit(MAX_DOCUMENT)
    # surrogateescape keeps undecodable bytes recognisable, so that only their own row is dropped later.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(_Lines(text), path, key)
    finally:
        text.detach()  # or it would close the stream, whose end is still to be checked


def read_parquet(stream: BinaryIO, path: str, key: str) -> Iterator[Raw]:
    """The cell under `key` of every row."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError("reading .parquet needs pyarrow", where=path, fix='pip install "tfgpt[parquet]"') from None
    row = 0
    try:
        table = parquet.ParquetFile(stream)
        names = table.schema_arrow.names
        if key not in names:
            raise _no_column(key, names, path)
        for batch in table.iter_batches(batch_size=256, columns=[key]):
            for value in batch.column(0).to_pylist():
                row += 1
                if isinstance(value, (str, bytes)):
                    yield Raw("text", value, f"{path}, row {row}")
                else:
                    yield Raw("text", b"", f"{path}, row {row}", problem="cell is not text")
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


class _Lines:
    """Lines for the csv module, which would read one of any length; a generator would be over after an error."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self.number = text, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_DOCUMENT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > MAX_DOCUMENT:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(MAX_DOCUMENT)
            raise csv.Error("line longer than 64 MB")
        return line


def _rows(lines: _Lines, path: str, key: str) -> Iterator[Raw]:
    rows = csv.reader(lines, delimiter="\t" if _is_tsv(path) else ",")
    try:
        header = next((row for row in rows if row), None)
    except csv.Error as error:
        yield Raw("text", b"", f"{path}, line 1", problem=f"broken header ({error})")
        return
    if header is None:
        return
    if key not in header:
        raise _no_column(key, header, f"{path}, line 1")
    column = header.index(key)
    while True:
        where = f"{path}, line {lines.number + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Raw("text", b"", where, problem=f"broken row ({error})")
            continue
        if len(row) > column:
            yield Raw("text", row[column].encode("utf-8", "surrogateescape"), where)
        elif row:
            detail = f"{len(row)} cells, the text is in cell {column + 1}"
            yield Raw("text", b"", where, problem=f"row without that cell ({detail})")


def _is_tsv(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].rsplit("::", 1)[-1].lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name.endswith(".tsv")


def _no_column(key: str, names: list[str], where: str) -> UserError:
    listed = ", ".join(f'"{name}"' for name in names[:8])
    return UserError(
        f'no column "{key}"', where=where, nearest=listed, fix="name the column that holds the text with --key"
    )
