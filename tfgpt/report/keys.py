"""The configuration of runs beside the defaults, and beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfgpt.config import Config
from tfgpt.report.history import History
from tfgpt.report.tables import grid

ABSENT = object()


def config_tables(histories: Sequence[History], names: Sequence[str]) -> str:
    """What differs first (from the defaults; between runs, if there are several), the rest folded away."""
    configs = [h.config for h in histories]
    if not any(configs):
        return ""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    if len(configs) > 1:
        first = [key for key in keys if len({_text(config.get(key, ABSENT)) for config in configs}) > 1]
        title, head = "What differs between the runs", ["", *names]
        rows = [(key, [_text(config.get(key, ABSENT)) for config in configs]) for key in first]
    else:
        first = [key for key in keys if _text(default(key, configs[0])) != _text(configs[0][key])]
        title, head = "Configuration", ["key", "value", "default"]
        rows = [(key, [_text(configs[0][key]), _text(default(key, configs[0]))]) for key in first]
    rest = [(key, [_text(config.get(key, ABSENT)) for config in configs]) for key in keys if key not in first]
    folded = f"<details><summary>{len(rest)} keys are {'alike' if len(configs) > 1 else 'as by default'}</summary>"
    folded += grid([], [(key, values[:1]) for key, values in rest]) + "</details>"
    shown = grid(head, rows) if rows else '<p class="sub">Nothing.</p>'
    return f"<h2>{title}</h2>" + shown + (folded if rest else "")


def default(key: str, values: Mapping[str, Any]) -> Any:
    """The default of `key` where it may follow from the other `values`, as n_head does from n_embd; ABSENT if none."""
    field = Config.model_fields.get(key)
    if field is None or field.is_required():
        return ABSENT
    try:
        return field.get_default(call_default_factory=True, validated_data=dict(values))
    except Exception:
        # The file may come from another version, or another hand; then there is no default to compare with.
        return ABSENT


def _text(value: Any) -> str:
    return "–" if value is ABSENT else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
