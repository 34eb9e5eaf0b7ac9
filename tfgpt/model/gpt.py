"""GPT-2: pre-LayerNorm blocks of attention and MLP over learned positions, the output tied to the token embedding.

Weights have GPT-2's names and layout (matrices are [in, out]). The forward pass is a plain function of them, which is what
makes recomputation, casting once a step and gradients by name simple; `GPT` is the Keras model around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
from keras import ops

from tfgpt.config import Config
from tfgpt.model import initial
from tfgpt.model.attention import causal, local
from tfgpt.model.layers import dense, embed, gelu, norm
from tfgpt.model.loss import cross_entropy
from tfgpt.model.randomness import dropout, fold
from tfgpt.model.shape import Shape, block_weights
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
        weights = self.cast(self.values())
        hidden = self.hidden(weights, ids, segments=segments)
        flat = ops.reshape(hidden, (-1, self.form.n_embd))
        logits = ops.cast(ops.matmul(flat, ops.transpose(weights["wte.weight"])), "float32")
        return ops.reshape(logits, (-1, ids.shape[1], self.form.rows))[..., : self.form.n_vocab]

    def values(self) -> dict[str, Any]:
        """The weights as tensors, by name; what gradients are taken of."""
        return {name: ops.copy(variable.value) for name, variable in self.table.items()}

    def cast(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Weights in the type that products are computed in."""
        return {name: ops.cast(weight, self.compute_dtype) for name, weight in weights.items()}

    def summed_loss(self, weights: Mapping[str, Any], ids, labels, *, segments=None, key=None, training: bool = False):
        """Sum of the losses in nats over all tokens whose label is not negative, float32.

        ids, labels: [B, T] int32; `segments` [B, T] keeps attention inside documents; `key` (two uint32, see
        `tfgpt.model.randomness`) switches dropout on; `training` orders the work so that gradients take little memory,
        and does what `recompute` asks for.
        """
        weights = self.cast(weights)
        hidden = self.hidden(weights, ids, segments=segments, key=key, training=training)
        flat = ops.reshape(hidden, (-1, self.form.n_embd))
        flat_labels, table = ops.reshape(labels, (-1,)), weights["wte.weight"]
        return cross_entropy(flat, table, flat_labels, n_vocab=self.form.n_vocab, training=training)

    def hidden(self, weights: Mapping[str, Any], ids, *, segments=None, key=None, training: bool = False):
        """What the blocks make of the ids: [B, T, E] after the last LayerNorm."""
        length = ids.shape[1]
        x = embed(weights["wte.weight"], ids) + weights["wpe.weight"][:length]
        x = dropout(x, self.settings.embed_dropout, key)
        for first, last in self._groups():
            names = [f"h.{i}.{name}" for i in range(first, last) for name in block_weights(self.form.n_embd)]
            run = self._blocks(first, last, segments, key)
            if self.settings.recompute != "none" and training:
                run = keras.remat(run)
            x = run(x, *[weights[name] for name in names])
        return norm(x, weights["ln_f.weight"], weights["ln_f.bias"])

    def _groups(self) -> list[tuple[int, int]]:
        """Blocks that are recomputed together, as (first, behind the last)."""
        size = self.settings.recompute if isinstance(self.settings.recompute, int) else 1
        return [(i, min(i + size, self.form.n_layer)) for i in range(0, self.form.n_layer, size)]

    def _blocks(self, first: int, last: int, segments, key) -> Callable[..., Any]:
        """A function of x [B, T, E] and the weights of these blocks, all positional, as recomputation needs it."""
        names = list(block_weights(self.form.n_embd))

        def run(x, *weights):
            for i in range(first, last):
                mine = weights[(i - first) * len(names) : (i - first + 1) * len(names)]
                own = None if key is None else fold(key, i + 1)
                x = self._block(i, x, dict(zip(names, mine, strict=True)), segments, own)
            return x

        return run

    def _block(self, layer: int, x, w: Mapping[str, Any], segments, key):
        keys = [None] * 3 if key is None else [fold(key, use) for use in range(3)]
        rate = self.settings.res_dropout
        a = self._attention(layer, norm(x, w["ln_1.weight"], w["ln_1.bias"]), w, segments, keys[0])
        x = x + dropout(a, rate, keys[1])
        m = gelu(dense(norm(x, w["ln_2.weight"], w["ln_2.bias"]), w["mlp.c_fc.weight"], w["mlp.c_fc.bias"]))
        return x + dropout(dense(m, w["mlp.c_proj.weight"], w["mlp.c_proj.bias"]), rate, keys[2])

    def _attention(self, layer: int, x, w: Mapping[str, Any], segments, key):
        _, length, width = x.shape
        heads = self.form.n_head
        qkv = dense(x, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
        qkv = ops.reshape(qkv, (-1, length, 3, heads, width // heads))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # [B, H, T, D] each
        how = {"segments": segments, "rate": self.settings.attn_dropout, "key": key}
        if self.form.attention[layer] == "local":
            out = local(q, k, v, size=self.form.block, shift=self.form.shift(layer), **how)
        else:
            out = causal(q, k, v, **how)
        out = ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (-1, length, width))
        return dense(out, w["attn.c_proj.weight"], w["attn.c_proj.bias"])

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make an equal model."""
        return {"config": self.settings.model_dump(), "n_vocab": self.form.n_vocab, "name": self.name}
