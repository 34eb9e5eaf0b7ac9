"""Which tokenizer an encode uses: a given one, the one of the data itself, or one trained on the text."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence

from tfgpt import files, tokenizers
from tfgpt.data import texts
from tfgpt.data.documents import Rules
from tfgpt.data.sources import Source
from tfgpt.errors import UserError
from tfgpt.progress import Progress
from tfgpt.tokenizers import Tokenizer

TRAINING_BYTES = 256 << 20  # enough text to settle any vocabulary; more only takes longer


def given(name: str, *, encoder_path: str | None, found: Sequence[Source]) -> Tokenizer | None:
    """The tokenizer called `name`, or None if it has yet to be trained on the text."""
    if name in ("char", "char+bytes") or name.split(":")[0] == "bpe":
        return None
    if name == "gpt2" and encoder_path is None and (meta := _meta_beside(found)):
        return tokenizers.load(meta)
    return tokenizers.from_name(name, encoder_path=encoder_path)


def train(name: str, *, found: Sequence[Source], rules: Rules) -> Tokenizer:
    """A tokenizer of that kind, made from the text; the same files always give the same one."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        made = tokenizers.from_name(name, texts=lambda: _shown(found, rules, name))
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    return made


def _shown(found: Sequence[Source], rules: Rules, name: str) -> Iterator[str]:
    # What a compressed file will come to is not known beforehand, and a bar over it would lie.
    total = None if any(source.compression for source in found) else sum(source.size for source in found)
    # A character that is left out would be missing from the alphabet; byte pairs need no more than a fair sample.
    limit = TRAINING_BYTES if name.startswith("bpe") else None
    with Progress(f"tokenizer {name}", total=min(total, limit or total) if total else None) as bar:
        for text in texts.texts_of(found, rules, limit=limit):
            yield text
            bar.update(len(text.encode("utf-8")))


def _meta_beside(found: Sequence[Source]) -> str | None:
    """nanoGPT's meta.pkl beside its .bin files: their ids mean nothing without it."""
    folders = {source.path.rpartition("/")[0] for source in found if source.format == "bin"}
    metas = [path for folder in folders if files.exists(path := files.join(folder or ".", "meta.pkl"))]
    if metas and len(folders) > 1:
        raise UserError(
            "these .bin files may have different vocabularies",
            where=", ".join(sorted(folders)),
            fix="encode one folder at a time",
        )
    return metas[0] if metas else None
