"""Optimizers as pure functions: state and gradient in, new weight and state out; also the learning rate and clipping.

>>> from tfgpt import optimizers
>>> from tfgpt.config import Config
>>> config = Config(opt_name="adafactor", data_path="x")
>>> optimizers.build(config).slots("h.0.mlp.c_fc.weight", (768, 3072))
{'vr': (768,), 'vc': (3072,)}
"""

from __future__ import annotations

from tfgpt.config import Config
from tfgpt.optimizers.adafactor import Adafactor
from tfgpt.optimizers.adam import AdamW
from tfgpt.optimizers.muon import Muon
from tfgpt.optimizers.optimizer import Optimizer, decays
from tfgpt.optimizers.schedules import clip_factor, learning_rate
from tfgpt.optimizers.sgd import SGD

KINDS: dict[str, type[Optimizer]] = {"adam": AdamW, "adafactor": Adafactor, "sgd": SGD, "muon": Muon}

__all__ = ["Optimizer", "build", "clip_factor", "decays", "learning_rate"]


def build(config: Config) -> Optimizer:
    """The optimizer that `config.opt_name` names, with the configuration's keys."""
    return KINDS[config.opt_name](config)
