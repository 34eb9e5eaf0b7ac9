"""A batch as a person can read it: its shape, where in the data it stands, and the text of some rows."""

from __future__ import annotations

import numpy as np

from tfgpt.data.batches import Batches
from tfgpt.data.inputs import Inputs
from tfgpt.data.show import printable
from tfgpt.errors import UserError
from tfgpt.tokenizers.base import END_OF_TEXT

WIDTH = 200


def lines(inputs: Inputs, split: str, position: int, *, rows: int) -> list[str]:
    """What stands in the batch at `position` of "train" or "eval".

    >>> print("\\n".join(lines(inputs, "train", 1000, rows=2)))   # doctest: +SKIP
    """
    batches = inputs.train if split == "train" else inputs.eval
    if batches is None:
        raise UserError("there is no evaluation data", where="--split eval", fix="--split train")
    if batches.count is not None and position >= batches.count:
        raise UserError(
            f"an evaluation has {batches.count} batches",
            where=f"--step {position}",
            nearest=f"--step {batches.count - 1}",
        )
    ids, labels, segments = batches.batch(position)
    padded = int((labels < 0).sum())
    out = [
        f"{split} batch {position}: {ids.shape[0]} rows of {ids.shape[1]} tokens, ids {int(ids.min())} to {int(ids.max())}",
        _place(batches, position, inputs.train_tokens),
        f"labels: {labels.size - padded:,}, and {padded:,} of padding that count for nothing"
        if not batches.marks
        else f"labels: {labels.size - padded:,} count, shown as [[text]]; the other {padded:,} count for nothing",
    ]
    for row in range(min(rows, len(ids))):
        if batches.marks:
            counts = np.concatenate([[False], labels[row, :-1] >= 0])  # each id is the label of the place before it
            head = f"\n--- row {row}, {int((labels[row] >= 0).sum())} labels ---\n"
            out.append(head + _marked_text(inputs, ids[row], counts))
            continue
        real = int((labels[row] >= 0).sum())
        documents = "" if segments is None else f", {int(segments[row, : max(real, 1)].max()) + 1} documents"
        out.append(f"\n--- row {row}, {real} labels{documents} ---\n{_text(inputs, ids[row, :real])}")
    return out


def _place(batches: Batches, position: int, tokens: int) -> str:
    if batches.count is not None:
        return f"one of {batches.count} batches that every evaluation goes through"
    if not tokens:
        return "how long an epoch is, only the input function knows"
    return (
        f"epoch {batches.epoch(position):.3f}; an epoch has {batches.steps_per_epoch:,.1f} steps and {tokens:,} labels"
    )


def _text(inputs: Inputs, ids: np.ndarray) -> str:
    """The beginning of a row, with end-of-text typed out; the ids themselves where there is no tokenizer."""
    if inputs.tokenizer is None:
        return " ".join(map(str, ids[: WIDTH // 5])) + " ..."
    ids = ids[: 2 * WIDTH]  # no token of a text that is shown in part has to be decoded beyond its part
    pieces = np.split(ids, np.flatnonzero(ids == inputs.eot))
    texts = [_decoded(inputs, piece[piece != inputs.eot]) for piece in pieces]
    text = END_OF_TEXT.join(texts)
    return text if len(text) <= WIDTH else text[:WIDTH] + " ..."


def _marked_text(inputs: Inputs, ids: np.ndarray, counts: np.ndarray) -> str:
    """The beginning of a row; what counts stands in [[ ]]."""
    ids, counts = ids[: 2 * WIDTH], counts[: 2 * WIDTH]
    borders = np.flatnonzero(counts[1:] != counts[:-1]) + 1
    text = ""
    for part, counted in zip(np.split(ids, borders), np.split(counts, borders), strict=True):
        if len(text) > WIDTH:
            return text + " ..."
        text += f"[[{_text(inputs, part)}]]" if counted[0] else _text(inputs, part)
    return text


def _decoded(inputs: Inputs, ids: np.ndarray) -> str:
    assert inputs.tokenizer is not None
    known = ids[ids < inputs.tokenizer.n_vocab]  # noise may draw ids that only a larger n_vocab has
    return printable(inputs.tokenizer.decode(known), also="\n")
