"""The server's configuration: one JSON file, checked at the start with every mistake in one report."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfgpt import files
from tfgpt.errors import Problems, UserError, nearest


class ModelSettings(BaseModel):
    """One model: the name that requests call it by, and where it lies."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    key: str = Field(min_length=1)
    path: str | None = None
    model_name: str | None = None
    restore_from: str | None = None
    sanitizer: str | None = None
    template: Literal["plain", "f11"] = "plain"
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    tokenizer: str | None = None

    @property
    def folder(self) -> str:
        """Where the model lies; a name alone is that of a downloaded one."""
        return self.path or self.restore_from or f"models/{self.model_name}"

    def clean(self) -> Callable[[str], str]:
        """What the sanitizer makes of an answer; UserError if it cannot be imported."""
        if self.sanitizer is None:
            return lambda text: text
        module, _, name = f"tfgpt.serving.{self.sanitizer}".rpartition(".")
        for place in (self.sanitizer.rpartition(".")[0], module):
            try:
                found = getattr(importlib.import_module(place), name)
            except (ImportError, AttributeError, ValueError):
                continue
            if callable(found):
                return found
        raise UserError(
            f'the sanitizer "{self.sanitizer}" of model "{self.key}" cannot be imported',
            nearest="sanitizers.chatbot",
            fix="name a function by its import path, or leave sanitizer out",
        )


class ServerSettings(BaseModel):
    """Everything about a server. `debug` is read, so that old files load, and does nothing: no request ever runs code."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    models: list[ModelSettings] = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(default=12345, ge=0, le=65535)
    debug: bool | int = False
    token: str | None = Field(default=None, min_length=8)
    slots: int = Field(default=8, ge=1, le=256)
    queue: int = Field(default=64, ge=1, le=100_000)
    deadline: float = Field(default=300.0, gt=0)
    longest: int = Field(default=1024, ge=1)
    patience: float = Field(default=30.0, gt=0)  # seconds for headers, for a body, for a reader to take something
    memory: float | None = Field(default=None, gt=0)  # GB for all models together; None: 0.8 of the machine's
    reload: float = Field(default=0.0, ge=0)  # seconds between two looks for newer checkpoints; 0: none
    preload: bool = True

    @property
    def warnings(self) -> list[str]:
        """What is legal, and better known."""
        if self.token is None and self.host not in ("127.0.0.1", "localhost", "::1"):
            return [f'host {self.host} lets other machines in, and there is no token: add "token": "a long secret"']
        return []


def load(path: str) -> ServerSettings:
    """Read the file; every mistake in it is reported at once."""
    if not files.exists(path):
        raise UserError("there is no such file", where=path, fix="tfgpt serve --sample > server_config.json makes one")
    try:
        values = json.loads(files.read_bytes(path))
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}", where=path) from None
    if not isinstance(values, dict):
        raise UserError("a server's configuration is an object: {...}", where=path)
    values.pop("$schema", None)
    try:
        found = ServerSettings.model_validate(values)
    except ValidationError as error:
        raise Problems(
            f"{error.error_count()} mistakes in {path}", [_problem(one, path) for one in error.errors()]
        ) from None
    problems = list(_together(found, path))
    if problems:
        raise Problems(f"{len(problems)} mistakes in {path}", problems)
    return found


def _problem(error: Any, path: str) -> UserError:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = list((ModelSettings if "models" in error["loc"] else ServerSettings).model_fields)
        name = str(error["loc"][-1])
        return UserError(f'unknown key "{name}"', where=f"{path}, $.{place}", nearest=nearest(name, known))
    return UserError(f"{error['msg']}, found {error['input']!r:.60}", where=f"{path}, $.{place}")


def _together(found: ServerSettings, path: str):
    keys = [model.key for model in found.models]
    for i, model in enumerate(found.models):
        where = f"{path}, $.models.{i}"
        if keys.index(model.key) != i:
            yield UserError(f'two models are called "{model.key}"', where=where, fix="give each a key of its own")
        if not (model.path or model.restore_from or model.model_name):
            yield UserError(
                f'where does the model "{model.key}" lie?', where=where, fix='add "path": "models/my_model"'
            )
        elif not files.exists(model.folder):
            yield UserError(
                f'there is no folder "{model.folder}" for the model "{model.key}"',
                where=where,
                fix=f"train or download it first, or correct {'path' if model.path else 'restore_from'}",
            )
        try:
            model.clean()
        except UserError as error:
            error.where = where
            yield error


SAMPLE = Path(__file__).parent / "server_config.json.sample"
