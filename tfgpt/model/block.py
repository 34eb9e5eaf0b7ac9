"""One block of a GPT, forward and backward: x + attention(norm(x)), and to that + mlp(norm of it).

The backward pass is written out. It needs the block's input, queries, keys and values, what attention gave, the input of
the second half, and what goes into the GELU: ten numbers for each of the block's [B, T, E]. Whatever else lies between is
computed again from these, which costs no product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from tfgpt.model import attention
from tfgpt.model.attention import Span, Window
from tfgpt.model.layers import dense, dense_gradient, gelu, gelu_gradient, norm, norm_gradient
from tfgpt.model.randomness import dropout, fold
from tfgpt.model.shape import block_weights


@dataclass(frozen=True)
class Block:
    """What makes one block compute otherwise than another; equal ones are one program, compiled once.

    x [B, T, E] is in `dtype`, weights are in the order of `block_weights`, float32, and so are their gradients.
    """

    width: int
    heads: int
    span: Span | Window | None  # None: attention sees all that came before
    attention_dropout: float
    residual_dropout: float
    dtype: str
    activation: str = "gelu_tanh"

    def forward(self, x, weights: Sequence[Any], segments=None, key=None):
        """The block's output [B, T, E]."""
        return self.keeping(x, weights, segments, key)[0]

    def keeping(self, x, weights: Sequence[Any], segments=None, key=None):
        """The output, and what the backward pass needs beside x."""
        w, keys = self._named(weights), self._keys(key)
        qkv = self._qkv(x, w)
        q, k, v = ops.unstack(qkv, 3)
        out, divisor = attention.forward(q, k, v, **self._how(segments, keys[0]))
        merged = ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (-1, *x.shape[1:]))
        a = dense(merged, w["attn.c_proj.weight"], w["attn.c_proj.bias"])
        middle = x + dropout(a, self.residual_dropout, keys[1])
        inner = norm(middle, w["ln_2.weight"], w["ln_2.bias"])
        inner = dense(inner, w["mlp.c_fc.weight"], w["mlp.c_fc.bias"])
        m = dense(gelu(inner, self.activation), w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
        return middle + dropout(m, self.residual_dropout, keys[2]), (qkv, divisor, merged, middle, inner)

    def backward(self, dy, x, kept: Sequence[Any], weights: Sequence[Any], segments=None, key=None):
        """Gradients of x, and of the weights."""
        w, keys = self._named(weights), self._keys(key)
        qkv, divisor, merged, middle, inner = kept
        d: dict[str, Any] = {}

        def back(name: str, x, dy):
            dx, d[f"{name}.weight"], d[f"{name}.bias"] = dense_gradient(x, w[f"{name}.weight"], dy)
            return dx

        def back_norm(name: str, x, dy):
            dx, d[f"{name}.weight"], d[f"{name}.bias"] = norm_gradient(x, w[f"{name}.weight"], dy)
            return dx

        dinner = back("mlp.c_proj", gelu(inner, self.activation), dropout(dy, self.residual_dropout, keys[2]))
        dinner = back(
            "mlp.c_fc", norm(middle, w["ln_2.weight"], w["ln_2.bias"]), gelu_gradient(inner, dinner, self.activation)
        )
        dmiddle = dy + back_norm("ln_2", middle, dinner)
        dmerged = back("attn.c_proj", merged, dropout(dmiddle, self.residual_dropout, keys[1]))
        delta = ops.sum(self._heads(ops.cast(dmerged, "float32") * ops.cast(merged, "float32")), axis=-1, keepdims=True)
        how = self._how(segments, keys[0])
        dqkv = attention.backward(*ops.unstack(qkv, 3), self._heads(dmerged), divisor, delta, **how)
        dqkv = ops.transpose(ops.stack(dqkv), (1, 3, 0, 2, 4))  # [B, T, 3, H, D]
        dqkv = ops.reshape(dqkv, (-1, x.shape[1], 3 * self.width))
        dx = dmiddle + back_norm("ln_1", x, back("attn.c_attn", norm(x, w["ln_1.weight"], w["ln_1.bias"]), dqkv))
        return dx, [ops.cast(d[name], "float32") for name in block_weights(self.width)]

    def _named(self, weights: Sequence[Any]) -> dict[str, Any]:
        return {n: ops.cast(w, self.dtype) for n, w in zip(block_weights(self.width), weights, strict=True)}

    def _keys(self, key) -> list[Any]:
        return [None] * 3 if key is None else [fold(key, use) for use in range(3)]

    def _how(self, segments, key) -> dict[str, Any]:
        return {"span": self.span, "segments": segments, "rate": self.attention_dropout, "key": key}

    def _heads(self, x):
        """[B, T, E] as [B, H, T, D]."""
        return ops.transpose(ops.reshape(x, (-1, x.shape[1], self.heads, self.width // self.heads)), (0, 2, 1, 3))

    def _qkv(self, x, w):
        """Queries, keys and values: [3, B, H, T, D]."""
        qkv = dense(norm(x, w["ln_1.weight"], w["ln_1.bias"]), w["attn.c_attn.weight"], w["attn.c_attn.bias"])
        qkv = ops.reshape(qkv, (-1, x.shape[1], 3, self.heads, self.width // self.heads))
        return ops.transpose(qkv, (2, 0, 3, 1, 4))
