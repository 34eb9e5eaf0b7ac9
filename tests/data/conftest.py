"""Small texts and data sets that the tests of this room share."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tfgpt.data.documents import Rules
from tfgpt.data.encode import encode
from tfgpt.data.job import Job

WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one "
    "you were her all their there been if more when will would who so no café naïve “quoted” don’t déjà-vu wait… &amp; ok"
).split()


def write_texts(folder: Path, count: int, *, seed: int = 0, words: int = 120) -> Path:
    """`count` different small .txt files, some in a subfolder."""
    draw = random.Random(seed)
    for number in range(count):
        path = folder / ("deep/er" if number % 3 == 0 else ".") / f"document-{number:05}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(max(1, words // 12))]
        path.write_text(f"{number}: " + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(inputs, output, **options):
    """An encode with the byte tokenizer and little noise."""
    rules = options.pop("rules", Rules())
    inputs = [str(i) for i in (inputs if isinstance(inputs, list) else [inputs])]
    settings = {"tokenizer": "byte", "processes": 1, "quiet": True, **options}
    return encode(Job(inputs, str(output), rules, **settings))


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder, for comparing to the last byte with a readable difference."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts", 60)
