"""Which tokenizer an encode uses: a given one, the one of the data itself, or one trained on the text and then kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tfgpt import files, tokenizers
from tfgpt.data import ledger, texts
from tfgpt.data.sources import Source
from tfgpt.errors import UserError
from tfgpt.progress import Progress
from tfgpt.tokenizers import Tokenizer

TRAINING_BYTES = 256 << 20  # enough text to settle any vocabulary; more only takes longer
CONTENT = "sha256:"
NOTE = "trained_on.json"  # in the work folder: what the tokenizer beside the data was trained on


def choose(
    name: str, *, encoder_path: str | None, found: Sequence[Source], output: str, key: str, fix_text: bool
) -> Tokenizer:
    """The tokenizer called `name`; a trained one is taken from `output` if it was trained there on the same files."""
    if name == "gpt2" and encoder_path is None and (meta := _meta_beside(found)):
        return tokenizers.load(meta)
    if not is_trained(name):
        return tokenizers.from_name(name, encoder_path=encoder_path)
    if files.is_remote(output):
        output = str(staging_folder(output))
    note = Path(output) / ledger.TOKENIZER_FOLDER / NOTE
    mark = {"name": name, "fix_text": fix_text, "files": listing(found)}
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == mark:
        return tokenizers.load(note.parent)
    tokenizer = tokenizers.from_name(name, texts=lambda: _shown(found, key=key, fix_text=fix_text, name=name))
    tokenizer.save(note.parent)
    files.write_text(note, json.dumps(mark))
    return tokenizer


def is_trained(name: str) -> bool:
    """Whether a tokenizer of this name is made from the text."""
    return name in ("char", "char+bytes") or name.split(":")[0] == "bpe"


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


def staging_folder(output: str) -> Path:
    """Where data for a bucket is made before it is sent."""
    return files.cache_folder() / "encode" / hashlib.sha256(output.encode()).hexdigest()[:16]


def _shown(found: Sequence[Source], *, key: str, fix_text: bool, name: str) -> Iterator[str]:
    total = sum(source.size for source in found)
    # A character that is left out would be missing from the alphabet; byte pairs need no more than a fair sample.
    limit = TRAINING_BYTES if name.startswith("bpe") else None
    with Progress(f"tokenizer {name}", total=min(total, limit or total)) as bar:
        for text in texts.texts_of(found, key=key, fix_text=fix_text, limit=limit):
            yield text
            bar.update(len(text))


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
