"""The English that every Python carries: the language reference's help topics and the docstrings of the standard library.

About two megabytes of technical prose that need no download, for the demo, the tests and the benchmarks.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "__pycache__",
}
WORTH_READING = 200  # characters: shorter docstrings say little more than a name


def documents() -> Iterator[tuple[str, str]]:
    """Name and text of each document, in a fixed order for one version of Python.

    >>> name, text = next(documents())
    """
    import pydoc_data.topics

    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield f"topic-{topic}", text.strip() + "\n"
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            yield from _docstrings(path, ".".join(parts))


def write(folder: Path) -> int:
    """One .txt file for each document; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, text in documents():
        count += 1
        safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in name)
        (folder / f"{safe}.txt").write_text(text, encoding="utf-8")
    return count


def _docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """A module's docstrings as one document: its own, then those of its classes and functions."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False) or ""
            if len(text) >= WORTH_READING or isinstance(node, ast.Module):
                found.append(inspect.cleandoc(text))
    document = "\n\n".join(filter(None, found))
    if len(document) >= WORTH_READING:
        yield f"module-{module}", document + "\n"
