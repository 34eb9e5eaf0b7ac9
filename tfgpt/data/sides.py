"""Who says each token of a chat, so that a model can learn from one side alone.

A token counts if any byte of it lies between the header of a message of that side and the end of the message's `<EOM>`: what is said,
and that it is over. Headers, line breaks and end-of-text do not count. It is found once for whole documents, not for windows, so that
a message that begins in one window still counts in the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from tfgpt.chat import EOM
from tfgpt.data.tokens import Stored
from tfgpt.errors import UserError
from tfgpt.progress import Progress
from tfgpt.tokenizers import Tokenizer

Side = Literal["sent", "received"]
# A header stands at the beginning of a line, or behind the end of a message; see tfgpt/chat.py.
MARKS = re.compile(rb"(?:^|(?<=%b)[ \t]*)([01])\|[^|\r\n]*\||%b" % ((EOM.encode(),) * 2), re.MULTILINE)


def marked(stores: Sequence[Stored], tokenizer: Tokenizer | None, side: Side) -> list[Stored]:
    """The same stores with 1 for each token that counts, and 0 for the others, in place of ids."""
    if tokenizer is None:
        raise UserError(
            f'loss_on "{side}" reads the text of the data, which needs its tokenizer',
            where="$.loss_on",
            fix="name the tokenizer's folder: --set tokenizer=FOLDER",
        )
    with Progress("find the sides", total=sum(len(store.ids) for store in stores)) as bar:
        return [replace(store, ids=_marks(store, tokenizer, side, bar)) for store in stores]


def counted_bytes(stores: Sequence[Stored], marks: Sequence[Stored], tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of all tokens that count."""
    widths = np.array([len(piece) for piece in tokenizer.pieces], np.int64)
    return sum(int(widths[store.ids[mark.ids == 1]].sum()) for store, mark in zip(stores, marks, strict=True))


def share(texts: Sequence[str], side: Side) -> float:
    """How much of these documents that side says, from 0 to 1.

    >>> share(["1|mum|hi <EOM>\\n0|mum|ho <EOM>\\n"], "sent")
    0.26666666666666666
    """
    found = [text.encode("utf-8", "replace") for text in texts]
    counted = sum(end - begin for text in found for begin, end in spans(text, side))
    return counted / max(sum(map(len, found)), 1)


def spans(text: bytes, side: Side) -> list[tuple[int, int]]:
    """Where in a document that side speaks: from behind each header to the end of the message.

    >>> spans(b"1|mum|hi <EOM>\\n0|mum|ho <EOM>\\n", "received")
    [(21, 29)]
    """
    wanted = b"1" if side == "sent" else b"0"
    found: list[tuple[int, int]] = []
    begin = -1  # of the message that is open, if it is of that side
    for mark in MARKS.finditer(text):
        if begin >= 0:
            # A header ends a message that has no end of its own.
            found.append((begin, mark.start() if mark[1] else mark.end()))
        begin = mark.end() if mark[1] == wanted else -1
    if begin >= 0:
        found.append((begin, len(text)))
    return found


def _marks(store: Stored, tokenizer: Tokenizer, side: Side, bar: Progress) -> np.ndarray:
    pieces = tokenizer.pieces
    widths = np.array([len(piece) for piece in pieces], np.int64)
    out = np.zeros(len(store.ids), np.uint8)
    starts = store.starts.tolist()
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        ids = store.ids[first : last - 1]  # without its end-of-text
        known = np.minimum(ids, len(pieces) - 1)  # a larger n_vocab than the tokenizer's has ids that no text has
        found = spans(b"".join([pieces[i] for i in known.tolist()]), side)
        if found:
            ends = np.cumsum(widths[known])
            begin, end = np.array(found).T
            low = np.searchsorted(ends, begin, side="right")
            high = np.searchsorted(ends - widths[known], end, side="left")
            for a, b in zip(low.tolist(), high.tolist(), strict=True):
                out[first + a : first + b] = 1
        bar.update(last - first)
    return out
