"""GPT-2: pre-LayerNorm blocks of attention and MLP over learned positions, the output tied to the token embedding.

Weights have GPT-2's names and layout (matrices are [in, out]). What is computed with them is in `tfgpt.model.parts`, plain
functions of the weights with their gradients; `GPT` is the Keras model around it, which owns the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
from keras import ops

from tfgpt.config import Config
from tfgpt.model import initial
from tfgpt.model.parts import Parts
from tfgpt.model.shape import Shape
from tfgpt.model.variables import own_copies

COMPUTE = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@keras.saving.register_keras_serializable(package="tfgpt")
class GPT(keras.Model):
    """A GPT of the shape that `config` describes; weights are float32 whatever it computes in.

    >>> from tfgpt import config
    >>> gpt = GPT(config.load("quickstart", check_files=False), n_vocab=4096)
    >>> gpt(np.zeros((1, 8), "int32")).shape                                  # logits [B, T, n_vocab]
    TensorShape([1, 8, 4096])
    """

    def __init__(self, config: Config | Mapping[str, Any], *, n_vocab: int | None = None, **kwargs: Any) -> None:
        config = config if isinstance(config, Config) else Config(**config)
        kwargs.setdefault("name", "gpt")
        kwargs.setdefault("dtype", COMPUTE[config.precision])
        super().__init__(**kwargs)
        self.settings = config
        self.form = Shape.of(config, n_vocab)
        self.table: dict[str, keras.Variable] = {}
        for name, shape in self.form.weights.items():
            first = partial(initial.value, config, name, shape)
            self.table[name] = own_copies(name, shape, first, trainable=True)
        self.built = True

    def call(self, ids, segments=None):
        """Logits [B, T, n_vocab], float32, for token ids [B, T] int32 with T <= n_ctx. No dropout."""
        weights = self.values()
        hidden = self.parts().hidden(weights, ids, segments=segments)
        flat, table = ops.reshape(hidden, (-1, self.form.n_embd)), ops.cast(weights["wte.weight"], self.compute_dtype)
        logits = ops.cast(ops.matmul(flat, ops.transpose(table)), "float32")
        return ops.reshape(logits, (-1, ids.shape[1], self.form.rows))[..., : self.form.n_vocab]

    def values(self) -> dict[str, Any]:
        """The weights as tensors, by name; what losses and gradients are taken of."""
        return {name: ops.copy(variable.value) for name, variable in self.table.items()}

    def parts(self, **how: Any) -> Parts:
        """The network as functions of its weights; `how` they are compiled is said as to `Parts`."""
        return Parts(self.form, self.settings, self.compute_dtype, **how)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make an equal model."""
        return {"config": self.settings.model_dump(), "n_vocab": self.form.n_vocab, "name": self.name}
