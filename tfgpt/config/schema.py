"""The one schema: every key of a configuration with its type, range, default and meaning, and the JSON schema for editors."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from tfgpt.config.checks import cross_checks
from tfgpt.config.data import DataKeys
from tfgpt.config.model import ModelKeys
from tfgpt.config.optimizer import OptimizerKeys
from tfgpt.config.run import GenerationKeys, RunKeys

SECTIONS: tuple[type[BaseModel], ...] = (DataKeys, ModelKeys, OptimizerKeys, RunKeys, GenerationKeys)
ALIASES = {"model_dir": "model_path"}
# Editors find the schema through this key; it says nothing about the model.
IGNORED = ("$schema",)


# pydantic lists the fields of the last base first; defaults that follow from other keys need this order.
class Config(GenerationKeys, RunKeys, OptimizerKeys, ModelKeys, DataKeys):
    """Everything that describes one GPT: its data, shape, training and generation. Values cannot be changed in place.

    >>> from tfgpt import config
    >>> config.Config(n_embd=128, text="data/my_text").n_head
    2
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="after")
    def _check_together(self, info: ValidationInfo) -> Config:
        # config.load collects these itself, so that they join the other mistakes in one report.
        if not (info.context or {}).get("collect"):
            for mistake in cross_checks(self):
                raise ValueError(mistake.what)
        return self


def json_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors: `tfgpt config schema > tfgpt.schema.json`."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tfgpt configuration"
    for section in SECTIONS:
        for key in section.model_fields:
            entry = schema["properties"][key]
            entry.pop("default_words", None)
            entry["title"] = f"{section.__doc__}: {key}"
    for alias, key in ALIASES.items():
        schema["properties"][alias] = {**schema["properties"][key], "deprecated": True}
    schema["properties"]["$schema"] = {"type": "string"}
    dataset = schema["properties"]["datasets"]
    dataset["items"] = {"anyOf": [dataset["items"], {"type": "array", "minItems": 5, "maxItems": 5}]}
    return schema


def default_words(key: str) -> str:
    """The default of `key` as the reference prints it: JSON, or words where it follows from other keys."""
    field = Config.model_fields[key]
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_words" in extra:
        return str(extra["default_words"])
    return json.dumps(field.default)
