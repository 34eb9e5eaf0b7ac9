"""`--set key=value`: reading the values, and putting them where the dots say."""

from __future__ import annotations

import copy
from typing import Any

from tfgpt.config.data import LINEAGE, as_mapping
from tfgpt.config.json_reader import Path, read
from tfgpt.config.schema import ALIASES
from tfgpt.errors import UserError


def parse(setting: str) -> tuple[Path, Any]:
    """Key path and value of one `key=value`; the value is JSON where it is that, else text.

    >>> parse("datasets.0.weight=2")
    (('datasets', 0, 'weight'), 2)
    >>> parse("text=data/a=b.txt")
    (('text',), 'data/a=b.txt')
    """
    key, sign, text = setting.partition("=")
    where = f"--set {setting}"
    if not sign or not key.strip():
        raise UserError("an override is key=value", where=where, fix=f"--set {key.strip() or 'lr'}=VALUE")
    parts = [
        int(part) if part.isascii() and part.isdecimal() and len(part) < 9 else part for part in key.strip().split(".")
    ]
    parts[0] = ALIASES.get(str(parts[0]), str(parts[0]))
    # The reader wants an object; a value of its own line keeps its line and column count right enough for one line.
    document = read('{"value":' + text + "\n}", name="--set")
    if document.whole and not document.problems and set(document.value) == {"value"}:
        return tuple(parts), document.value["value"]
    if text.lstrip()[:1] in ("[", "{", '"'):
        what = document.problems[0].what if document.problems else "not one JSON value"
        raise UserError(
            f"the value is not JSON: {what}", where=where, fix='mind your shell\'s quotes: --set \'text=["a", "b"]\''
        )
    return tuple(parts), text


def apply(values: dict[str, Any], path: Path, value: Any, *, where: str) -> None:
    """Set `path` inside `values`, which is changed."""
    place: Any = values
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(place, list):
            if not isinstance(part, int) or part >= len(place):
                legal = f"0 to {len(place) - 1}" if place else "none, the list is empty"
                name = ".".join(map(str, path[:depth]))
                raise UserError(
                    f'there is no item "{part}" in {name}', where=where, nearest=legal, fix=f"--set '{name}=[...]'"
                )
            following = path[depth + 1] if not last else None
            if isinstance(place[part], list) and len(place[part]) == len(LINEAGE) and isinstance(following, str):
                place[part] = as_mapping(place[part])
        elif not isinstance(place, dict):
            name = ".".join(map(str, path[:depth]))
            raise UserError(
                f"{name} has no parts, so {'.'.join(map(str, path))} cannot be set",
                where=where,
                fix=f"--set {name}=VALUE",
            )
        else:
            part = str(part)
        if last:
            place[part] = copy.deepcopy(value)
        elif isinstance(place, dict) and part not in place:
            name = ".".join(map(str, path[: depth + 1]))
            raise UserError(
                f"{name} is not there, so nothing inside it can be set", where=where, fix=f"--set '{name}=[...]'"
            )
        else:
            place = place[part]
