"""From a file and overrides to a Config, or to one report of everything that is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfgpt.config import json_reader, overrides, presets
from tfgpt.config.checks import Mistake, cross_checks, file_checks
from tfgpt.config.json_reader import Document
from tfgpt.config.json_reader import Path as JsonPath
from tfgpt.config.schema import ALIASES, IGNORED, Config
from tfgpt.config.wording import explain
from tfgpt.errors import Failure, Problems, UserError


@dataclass
class Loaded:
    """A configuration and where each of its values comes from: "line 4", "--set lr=1e-4" or "default"."""

    config: Config
    name: str
    origins: dict[str, str]


@dataclass
class _Source:
    """What the user wrote, merged, and where each part of it stands."""

    name: str
    document: Document
    values: dict[str, Any]
    settings: dict[JsonPath, str] = field(default_factory=dict)

    def locate(self, path: JsonPath) -> str:
        """Where `path` was written: the override that set it or what holds it, else its line in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.settings:
                return f"--set {self.settings[path[:end]]}"
            if path[:end] in self.document.places:
                return json_reader.locate(self.name, self.document.places[path[:end]], path)
        return json_reader.locate(self.name, None, path)

    def wrote(self, path: JsonPath) -> bool:
        return path[:1] in self.document.places or any(known[:1] == path[:1] for known in self.settings)


def load(name: str, overrides: Iterable[str] = (), check_files: bool = True) -> Config:
    """Load a configuration by path or preset name; every mistake in it is reported at once.

    >>> load("117M", overrides=["lr=1e-4"], check_files=False).n_layer
    12
    """
    return read(name, overrides, check_files=check_files).config


def read(name: str, settings: Iterable[str] = (), *, check_files: bool = True) -> Loaded:
    """Like `load`, and says where each value comes from."""
    path = presets.find(name)
    source, problems = _open(path, list(settings))
    if not source.document.whole:
        raise _report(source.name, problems)
    values = {key: value for key, value in source.values.items() if key not in IGNORED}
    values.setdefault("model_path", f"models/{path.name[: -len('.json')] if path.suffix == '.json' else path.name}")
    bad = {str(broken[0]) for broken in source.document.broken if broken}
    try:
        config = Config.model_validate(values, context={"collect": True})
    except ValidationError as error:
        found, wrong = explain(error, source.locate, broken=source.document.broken)
        problems += found
        bad |= wrong
        # The rest is checked too: the mistaken keys stand at their defaults, and checks that need them are left out.
        rest = {key: value for key, value in values.items() if key not in bad}
        config = Config.model_validate(rest, context={"collect": True})
    mistakes = [*cross_checks(config), *(file_checks(config) if check_files else ())]
    problems += [_place(mistake, source) for mistake in mistakes if not bad & {str(p[0]) for p in mistake.paths}]
    if problems:
        raise _report(source.name, problems)
    return Loaded(config, source.name, {key: _origin(key, source) for key in Config.model_fields})


def _open(path: Path, settings: Sequence[str]) -> tuple[_Source, list[UserError]]:
    """Read the file and lay the overrides over it; mistakes in either are returned, not raised."""
    name = str(path)
    try:
        text = json_reader.decode(path.read_bytes(), name=name)
    except OSError as error:
        raise Failure(
            f"cannot read the configuration: {error.strerror}", where=name, fix="check the file's rights"
        ) from error
    except UserError as error:
        raise _report(name, [error]) from None
    document = json_reader.read(text, name=name)
    problems = list(document.problems)
    source = _Source(name, document, dict(document.value) if isinstance(document.value, dict) else {})
    for alias, key in ALIASES.items():
        if alias in source.values:
            if key in source.values:
                what = f'"{alias}" and "{key}" are one key, and both are given'
                problems.append(UserError(what, where=source.locate((alias,)), fix=f'keep "{key}"'))
            source.values.setdefault(key, source.values.pop(alias))
            source.values.pop(alias, None)
            document.places.setdefault((key,), document.places[(alias,)])
    for setting in settings:
        try:
            where, value = overrides.parse(setting)
            overrides.apply(source.values, where, value, where=f"--set {setting}")
            source.settings = {known: text for known, text in source.settings.items() if known[: len(where)] != where}
            source.settings[where] = setting
        except UserError as error:
            problems.append(error)
    return source, problems


def _place(mistake: Mistake, source: _Source) -> UserError:
    """Report a mistake at the first of its keys that the user wrote, or at the first one when all of them are defaults."""
    written = [path for path in mistake.paths if source.wrote(path)] or [mistake.paths[0]]
    where = source.locate(written[0])
    return UserError(mistake.what, where=where, nearest=mistake.nearest, fix=mistake.fix)


def _origin(key: str, source: _Source) -> str:
    parts = []
    if (key,) in source.document.places and (key,) not in source.settings:
        parts.append(f"line {source.document.places[(key,)][0]}")
    parts += [f"--set {text}" for path, text in source.settings.items() if path[0] == key]
    return ", ".join(parts) or "default"


def _report(name: str, problems: list[UserError]) -> Problems:
    for problem in problems:
        if problem.fix.startswith("--set "):
            say = "use" if problem.where.startswith("--set ") else "correct it in the file, or add"
            problem.fix = f"{say} {problem.fix}"
    count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return Problems(f"{count} in {name}; nothing was created", problems)


def differences(left: Config, right: Config) -> list[tuple[str, str, str]]:
    """Keys whose values differ, with both values as JSON."""
    a, b = left.model_dump(mode="json"), right.model_dump(mode="json")
    return [(key, json.dumps(a[key]), json.dumps(b[key])) for key in a if a[key] != b[key]]
