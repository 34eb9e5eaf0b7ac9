"""GPT-2 in NumPy, float64, with its backward pass written by hand: the slow and plain truth that the model is held against.

It shares no line with the package: attention is one masked [T, T] softmax, the loss has all logits at once.
"""

from __future__ import annotations

import math

import numpy as np


class Reference:
    """A GPT-2 over named weights; `mask(layer, T)` says which keys a query sees, by default all up to itself."""

    def __init__(self, weights, *, heads, n_vocab, mask=None, activation="gelu_tanh"):
        self.w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("h."))
        self.heads, self.n_vocab = heads, n_vocab
        self.gelu, self.gelu_slope = (gelu, gelu_slope) if activation == "gelu_tanh" else (exact_gelu, exact_gelu_slope)
        self.mask = mask or (lambda layer, length: np.tril(np.ones((length, length), bool)))

    def logits(self, ids, segments=None):
        """[B, T, n_vocab]."""
        return self._forward(ids, segments)[0]

    def loss(self, ids, labels, segments=None):
        """Sum over the tokens whose label is not negative."""
        logits = self.logits(ids, segments)
        return -np.sum(np.where(labels >= 0, pick(log_softmax(logits), np.maximum(labels, 0)), 0.0))

    def gradients(self, ids, labels, segments=None):
        """Of the summed loss, by name."""
        w, tape = self.w, []
        logits, final = self._forward(ids, segments, tape)
        dlogits = np.exp(log_softmax(logits))
        np.put_along_axis(
            dlogits, np.maximum(labels, 0)[..., None], pick(dlogits, np.maximum(labels, 0))[..., None] - 1, -1
        )
        dlogits *= (labels >= 0)[..., None]
        g = {name: np.zeros_like(value) for name, value in w.items()}
        g["wte.weight"][: self.n_vocab] += np.einsum("btv,bte->ve", dlogits, final)
        dx = norm_back(dlogits @ w["wte.weight"][: self.n_vocab], tape.pop(), g, "ln_f")
        for i in reversed(range(self.layers)):
            h = f"h.{i}."
            after_ln_1, q, k, v, p, mixed, after_ln_2, before_gelu, ln_1, ln_2 = tape.pop()
            d = dense_back(dx, self.gelu(before_gelu), w, g, h + "mlp.c_proj") * self.gelu_slope(before_gelu)
            dx = dx + norm_back(dense_back(d, after_ln_2, w, g, h + "mlp.c_fc"), ln_2, g, h + "ln_2")
            d = self._split(dense_back(dx, mixed, w, g, h + "attn.c_proj"))
            dp = d @ v.swapaxes(-1, -2)
            ds = p * (dp - np.sum(dp * p, -1, keepdims=True)) / np.sqrt(q.shape[-1])
            dq, dk, dv = ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ d
            d = np.concatenate([self._merge(x) for x in (dq, dk, dv)], -1)
            dx = dx + norm_back(dense_back(d, after_ln_1, w, g, h + "attn.c_attn"), ln_1, g, h + "ln_1")
        g["wpe.weight"][: ids.shape[1]] += dx.sum(0)
        np.add.at(g["wte.weight"], ids, dx)
        return g

    def _forward(self, ids, segments, tape=None):
        w, length = self.w, ids.shape[1]
        x = w["wte.weight"][ids] + w["wpe.weight"][:length]
        for i in range(self.layers):
            h = f"h.{i}."
            a, ln_1 = norm(x, w, h + "ln_1")
            q, k, v = (self._split(part) for part in np.split(dense(a, w, h + "attn.c_attn"), 3, -1))
            seen = self.mask(i, length)[None, None]
            if segments is not None:
                seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
            scores = np.where(seen, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
            p = np.exp(log_softmax(scores))
            mixed = self._merge(p @ v)
            x = x + dense(mixed, w, h + "attn.c_proj")
            b, ln_2 = norm(x, w, h + "ln_2")
            before_gelu = dense(b, w, h + "mlp.c_fc")
            x = x + dense(self.gelu(before_gelu), w, h + "mlp.c_proj")
            if tape is not None:
                tape.append((a, q, k, v, p, mixed, b, before_gelu, ln_1, ln_2))
        final, ln_f = norm(x, w, "ln_f")
        if tape is not None:
            tape.append(ln_f)
        return final @ w["wte.weight"][: self.n_vocab].T, final

    def _split(self, x):  # [B, T, E] -> [B, H, T, D]
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def _merge(self, x):  # [B, H, T, D] -> [B, T, E]
        return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attention(q, k, v, seen, dout, *, kept=None, rate=0.0):
    """Output and gradients of attention over one whole matrix; `kept` [B, H, T, T] is the dropout mask on the weights."""
    scale = 1 / np.sqrt(q.shape[-1])
    p = np.exp(log_softmax(np.where(seen, q @ k.swapaxes(-1, -2) * scale, -np.inf)))
    factor = 1.0 if kept is None else kept / (1 - rate)
    dp = dout @ v.swapaxes(-1, -2) * factor
    ds = p * (dp - np.sum(dp * p, -1, keepdims=True)) * scale
    return (p * factor) @ v, ds @ k, ds.swapaxes(-1, -2) @ q, (p * factor).swapaxes(-1, -2) @ dout


def spans(length, size, shift):
    """The mask of local attention, written as its definition: same span of the shifted grid, and not later."""
    place = np.arange(length)
    return ((place[:, None] + shift) // size == (place[None] + shift) // size) & (place[:, None] >= place[None])


def log_softmax(x):
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.sum(np.exp(x - top), -1, keepdims=True))


def pick(x, index):
    return np.take_along_axis(x, index[..., None], -1)[..., 0]


def dense(x, w, name):
    return x @ w[name + ".weight"] + w[name + ".bias"]


def dense_back(d, x, w, g, name):
    g[name + ".weight"] += np.einsum("bti,bto->io", x, d)
    g[name + ".bias"] += d.sum((0, 1))
    return d @ w[name + ".weight"].T


def norm(x, w, name):
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = (x - x.mean(-1, keepdims=True)) / deviation
    return y * w[name + ".weight"] + w[name + ".bias"], (y, deviation, w[name + ".weight"])


def norm_back(d, saved, g, name):
    y, deviation, weight = saved
    g[name + ".weight"] += (d * y).sum((0, 1))
    g[name + ".bias"] += d.sum((0, 1))
    d = d * weight
    return (d - d.mean(-1, keepdims=True) - y * (d * y).mean(-1, keepdims=True)) / deviation


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x):
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def exact_gelu(x):
    return x * normal_cdf(x)


def exact_gelu_slope(x):
    return normal_cdf(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def normal_cdf(x):
    return np.vectorize(lambda number: 0.5 * (1 + math.erf(number / math.sqrt(2))))(x)
