"""The network in parts that are compiled one by one, and the way through them, forward and back.

All blocks of a kind are one program: a model of 48 blocks compiles in the time of one, and its code takes the memory of
one. Between the parts run plain tensors, which are given back as soon as nothing needs them any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from keras import ops

from tfgpt.config import Config
from tfgpt.model.attention import Span, Window
from tfgpt.model.block import Block
from tfgpt.model.ends import Beginning, End
from tfgpt.model.layers import add_rows, after, embed_gradient
from tfgpt.model.randomness import fold
from tfgpt.model.shape import Shape, block_weights

Function = Callable[..., Any]
Weights = Mapping[str, Any]


class Parts:
    """A GPT as functions of its weights [by name, float32], its token ids and a key.

    `compiled` makes one program of a function of tensors; by default nothing is compiled here. `in_place` says that these
    programs change arrays in loops without copies. `add_rows` adds rows to the table of the tokens' gradient, for those who
    can do that in place.
    """

    def __init__(
        self,
        form: Shape,
        settings: Config,
        dtype: str,
        *,
        compiled: Callable[[Function], Function] | None = None,
        in_place: bool = False,
        add_rows: Function = add_rows,
    ) -> None:
        self.form, self.recompute = form, settings.recompute
        self.beginning = Beginning(settings.embed_dropout, dtype)
        self.end = End(form.n_vocab, dtype, in_place)
        self.blocks = [
            Block(
                width=form.n_embd,
                heads=form.n_head,
                span=_span(form, i),
                activation=form.activation,
                attention_dropout=settings.attn_dropout,
                residual_dropout=settings.res_dropout,
                dtype=dtype,
            )
            for i in range(form.n_layer)
        ]
        self._compiled = compiled or (lambda function: function)
        self._add_rows = add_rows
        self._programs: dict[Hashable, Function] = {}

    def hidden(self, weights: Weights, ids, *, segments=None):
        """What is multiplied with the tokens' table to give logits: [B, T, E]."""
        return self.end.hidden(self._through(weights, ids, segments, None), *_last(weights))

    def loss(self, weights: Weights, ids, labels, *, segments=None, key=None):
        """Sum of the losses in nats over all tokens whose label is not negative, float32; nothing is kept for gradients."""
        x = self._through(weights, ids, segments, key)
        return self._program("loss", self.end.forward)(x, labels, weights["wte.weight"], *_last(weights))

    def gradients(self, weights: Weights, ids, labels, *, names: Collection[str], segments=None, key=None, scale=1.0):
        """That sum times `scale`, and its gradients of the weights in `names`, by name."""
        found: dict[str, Any] = {}
        x = self._begin(weights, ids, key)
        kept: dict[int, Any] = {}
        groups = self._groups()
        for group in groups:
            kept[group[0]] = x
            for i in group:
                if self.recompute == "none":
                    x, kept[i] = self._keep(i, x, weights, segments, key)
                else:
                    x = self._forward(i, x, weights, segments, key)
        end = self._program("end", self.end.gradients)
        total, dx, dtokens, *last = end(x, labels, weights["wte.weight"], *_last(weights), scale)
        found["ln_f.weight"], found["ln_f.bias"] = last
        lowest = self._lowest(names)
        for group in reversed(groups):
            if group[-1] < lowest:
                break
            if self.recompute != "none":
                # Not before it is needed: parallel executors and compilers would otherwise do it at once, and keep it.
                x = after(kept.pop(group[0]), [dx])
                for i in group:
                    x, kept[i] = self._keep(i, x, weights, segments, key)
            for i in reversed(group):
                if i >= lowest:
                    dx, more = self._backward(i, dx, kept.pop(i), weights, segments, key, names)
                    found |= more
        if lowest < 0:
            found |= self._begin_backward(dx, ids, dtokens, key)
        return total, {name: found[name] for name in names}

    def _through(self, weights: Weights, ids, segments, key):
        x = self._begin(weights, ids, key)
        for i in range(self.form.n_layer):
            x = self._forward(i, x, weights, segments, key)
        return x

    def _begin(self, weights: Weights, ids, key):
        run = self._program("begin", self.beginning.forward)
        return run(ids, weights["wte.weight"], weights["wpe.weight"], key)

    def _begin_backward(self, dx, ids, dtokens, key):
        dx, dpositions = self._program("begin back", self.beginning.backward)(dx, key)
        unused = self.form.n_ctx - ids.shape[1]
        # Not compiled, as compilers copy the whole table to add a few rows to it.
        dtokens = embed_gradient(dtokens, ids, dx, self._add_rows)
        return {"wte.weight": dtokens, "wpe.weight": ops.pad(dpositions, ((0, unused), (0, 0)))}

    def _forward(self, i: int, x, weights: Weights, segments, key):
        block = self.blocks[i]
        return self._program(("forward", block), block.forward)(x, self._of(weights, i), segments, _fold(key, i))

    def _keep(self, i: int, x, weights: Weights, segments, key):
        block = self.blocks[i]
        y, kept = self._program(("keep", block), block.keeping)(x, self._of(weights, i), segments, _fold(key, i))
        return y, (x, kept)

    def _backward(self, i: int, dy, kept, weights: Weights, segments, key, names: Collection[str]):
        block = self.blocks[i]
        own = tuple(name for name in block_weights(self.form.n_embd) if f"h.{i}.{name}" in names)

        def run(dy, x, kept, weights, segments, key):
            dx, gradients = block.backward(dy, x, kept, weights, segments, key)
            named = dict(zip(block_weights(self.form.n_embd), gradients, strict=True))
            return dx, [named[name] for name in own]  # compilers leave out what nobody asked for

        program = self._program(("backward", block, own), run)
        dx, gradients = program(dy, *kept, self._of(weights, i), segments, _fold(key, i))
        return dx, {f"h.{i}.{name}": gradient for name, gradient in zip(own, gradients, strict=True)}

    def _of(self, weights: Weights, i: int) -> list[Any]:
        return [weights[f"h.{i}.{name}"] for name in block_weights(self.form.n_embd)]

    def _groups(self) -> list[range]:
        """Blocks that are recomputed together."""
        size, count = self.recompute if isinstance(self.recompute, int) else 1, self.form.n_layer
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def _lowest(self, names: Collection[str]) -> int:
        """The lowest block that gradients have to reach; -1: down to the embeddings."""
        if {"wte.weight", "wpe.weight"} & set(names):
            return -1
        layers = [int(name.split(".")[1]) for name in names if name.startswith("h.")]
        return min(layers, default=self.form.n_layer)

    def _program(self, name: Hashable, function: Function) -> Function:
        if name not in self._programs:
            self._programs[name] = self._compiled(function)
        return self._programs[name]


def _last(weights: Weights):
    return weights["ln_f.weight"], weights["ln_f.bias"]


def _span(form: Shape, layer: int) -> Span | Window | None:
    kind = form.attention[layer]
    if kind == "global":
        return None
    return Window(form.window) if kind == "sliding" else Span(form.block, form.shift(layer))


def _fold(key, layer: int):
    return None if key is None else fold(key, layer + 1)
