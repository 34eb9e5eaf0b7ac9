"""The text of all documents below some folders, files or globs, as a stream: what a tokenizer is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfgpt.data import documents, readers, sources
from tfgpt.data.documents import Rules


def texts(
    inputs: Sequence[str], *, key: str = "text", fix_text: bool = True, limit: int | None = None
) -> Iterator[str]:
    """The text of every readable document below `inputs`, one after the other, in bounded memory.

    limit  about how many bytes of input to read, spread evenly over all of it

    >>> for text in texts(["my_folder", "more/*.jsonl.gz"]):   # doctest: +SKIP
    ...     print(len(text))
    """
    return texts_of(sources.find(inputs).sources, Rules(key=key, fix_text=fix_text), limit=limit)


def texts_of(found: Sequence[sources.Source], rules: Rules, *, limit: int | None = None) -> Iterator[str]:
    """The same for files that were found already."""
    units = sources.plan(found)
    stride = max(1, round(sum(unit.size for unit in units) / limit)) if limit else 1
    given = 0
    for unit in units[::stride]:
        for raw in readers.read(unit, key=rules.key, encoding=rules.encoding, me=rules.me):
            text = documents.text_of(raw, key=rules.key, fix_text=rules.fix_text, encoding=rules.encoding)
            if isinstance(text, str):
                yield text
                given += len(text)
                if limit and given > 2 * limit:  # a compressed file holds more than its size says
                    return
