"""docs/configuration.md, made from the schema."""

from __future__ import annotations

import json

from pydantic import BaseModel

from tfgpt.config.data import Dataset
from tfgpt.config.kinds import legal
from tfgpt.config.schema import SECTIONS, Config, default_words

INTRODUCTION = """\
# Configuration

Made from the schema by `tfgpt config reference > docs/configuration.md`; do not edit.

A configuration is one flat JSON object; every key has a default. `--model` takes the path of such a file or a preset's name
(a file of `model_configs/`). `--set key=value` (any number of times, the later one wins) overrides the file: the value is JSON, or plain text
where it is not JSON; dots reach inside, as in `--set datasets.0.weight=2`. All mistakes are reported at once, before anything is created.

    tfgpt config show 117M --set lr=1e-4      every value, and where it comes from
    tfgpt config diff 117M my.json            what differs
    tfgpt config schema > tfgpt.schema.json   for your editor: name it in the file's "$schema" key

Relative paths start at the folder in which you run the command; any path may be a `gs://` one. `model_dir` is read as `model_path`.
"""


def reference() -> str:
    """The reference of all keys as Markdown.

    >>> "| `n_layer` |" in reference()
    True
    """
    parts = [INTRODUCTION]
    for section in SECTIONS:
        parts.append(
            f"## {section.__doc__}\n\n" + _table(section, {key: default_words(key) for key in section.model_fields})
        )
    defaults = {
        key: "required" if f.is_required() else json.dumps(f.default) for key, f in Dataset.model_fields.items()
    }
    parts.append(f"## One entry of `datasets`\n\n{Dataset.__doc__}\n\n" + _table(Dataset, defaults))
    return "\n".join(parts)


def _table(section: type[BaseModel], defaults: dict[str, str]) -> str:
    rows = ["| key | default | legal | meaning |", "|---|---|---|---|"]
    for key, field in section.model_fields.items():
        # A key takes its rules from the finished Config, which is what is checked.
        field = Config.model_fields[key] if section is not Dataset else field
        rows.append(f"| `{key}` | {_cell(defaults[key])} | {_cell(legal(field))} | {_cell(field.description or '')} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
