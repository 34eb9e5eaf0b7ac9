"""First values of the weights: a pure function of (seed, name, shape), equal on every device and for any number of replicas."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from tfgpt.config import Config


def value(config: Config, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The first value of the weight `name`, float32.

    `init` "gpt2": N(0, 0.02), what goes back into the residual stream (both c_proj) divided by sqrt(2 n_layer), positions
    N(0, 0.02) as in nanoGPT and Hugging Face. `init` "seed": ConnorJL/GPT2's, with `scale_by_depth` and `scale_by_in`.
    """
    if len(shape) == 1:
        return np.full(shape, 1.0 if ".weight" in name else 0.0, np.float32)  # LayerNorm's weight is its scale
    digest = hashlib.blake2b(f"{config.seed}:{name}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return generator.standard_normal(shape, np.float32) * np.float32(deviation(config, name, shape))


def deviation(config: Config, name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a matrix's first values."""
    if config.init == "gpt2":
        return 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02
    if name.startswith("w"):
        return 0.01 if name == "wpe.weight" else 0.02
    scale = 1 / math.sqrt(config.n_layer) if config.scale_by_depth and name.endswith("mlp.c_proj.weight") else 1.0
    return 0.02 * scale * (1 / math.sqrt(shape[0]) if config.scale_by_in else 1.0)
