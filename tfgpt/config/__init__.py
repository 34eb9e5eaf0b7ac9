"""Configurations: one schema for JSON files, `--set`, defaults, checks, the reference and editors.

>>> from tfgpt import config
>>> config.load("117M", overrides=["n_ctx=512"], check_files=False).n_ctx
512
"""

from tfgpt.config.loading import Loaded, differences, load, read
from tfgpt.config.presets import PRESETS, preset_names
from tfgpt.config.reference import reference
from tfgpt.config.schema import SECTIONS, Config, json_schema

__all__ = [
    "PRESETS",
    "SECTIONS",
    "Config",
    "Loaded",
    "differences",
    "json_schema",
    "load",
    "preset_names",
    "read",
    "reference",
]
