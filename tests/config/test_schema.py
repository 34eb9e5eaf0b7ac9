"""The reference and the editors' schema say what the loader does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfgpt import config
from tfgpt.config.kinds import legal
from tfgpt.config.wording import ELSEWHERE

ROOT = Path(__file__).resolve().parents[2]
FIELDS = config.Config.model_fields


def test_the_reference_page_is_fresh():
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == config.reference(), "run: tfgpt config reference > docs/configuration.md"


def test_every_key_is_in_exactly_one_section_and_documented_in_one_line():
    keys = [key for section in config.SECTIONS for key in section.model_fields]
    assert sorted(keys) == sorted(FIELDS) and len(set(keys)) == len(keys)
    for key, field in FIELDS.items():
        assert field.description and field.description.endswith(".") and "\n" not in field.description, key
        assert config.reference().count(f"| `{key}` |") >= 1
    assert set(ELSEWHERE.values()) <= set(FIELDS) and not set(ELSEWHERE) & set(FIELDS)


def test_the_schema_knows_the_keys_their_ranges_and_their_aliases():
    schema = json.loads(json.dumps(config.json_schema()))
    properties = schema["properties"]
    assert set(properties) == {*FIELDS, "model_dir", "$schema"}
    assert schema["additionalProperties"] is False and "required" not in schema
    assert properties["n_layer"]["minimum"] == 1 and properties["res_dropout"]["exclusiveMaximum"] == 1
    assert properties["opt_name"]["enum"] == ["adam", "adafactor", "sgd", "muon"]
    assert {kind["type"] for kind in properties["text"]["anyOf"]} == {"string", "array"}
    assert all("description" in properties[key] for key in FIELDS)


@pytest.mark.parametrize(
    "key", [k for k in FIELDS if "from 1 to" in legal(FIELDS[k]) or "at least 0 and below 1" in legal(FIELDS[k])]
)
def test_the_ranges_in_words_are_the_ranges_that_hold(key):
    whole = "whole" in legal(FIELDS[key])
    for good in (1, 1) if whole else (0.0, 0.999):
        fits = {"n_embd": {"n_head": 1}, "n_vocab": {"tokenizer": "char"}}.get(key, {})
        assert (
            getattr(config.Config(**{key: good, **fits, **({"warmup_steps": 0} if key == "max_steps" else {})}), key)
            == good
        )
    for bad in (0, 2**31) if whole else (-0.001, 1.0):
        with pytest.raises(ValueError, match=key):
            config.Config(**{key: bad})
