"""What a configuration makes of a GPT before any of it exists: names and shapes of weights, kinds of attention, sizes, FLOPs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tfgpt.config import Config


@dataclass(frozen=True)
class Shape:
    """The shape of one GPT.

    >>> from tfgpt import config
    >>> Shape.of(config.load("117M", check_files=False)).parameters
    124439808
    """

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_layer: int
    n_head: int
    attention: tuple[str, ...]  # "global", "local" or "sliding", block by block
    block: int = 128  # span of local attention, in tokens
    offset: int = 16  # by which block i shifts the grid of spans, times i
    window: int = 256  # what a position of sliding attention sees, itself among it
    activation: str = "gelu_tanh"
    multiple: int = 64  # the embedding table is padded to a multiple of this

    @classmethod
    def of(cls, config: Config, n_vocab: int | None = None) -> Shape:
        """The shape that `config` describes; `n_vocab`, where given, is what the data's tokenizer really has."""
        size = n_vocab or config.n_vocab
        assert size, "the size of the vocabulary is known once the data is open"
        kinds = [kind for names, times in config.attention_types or [] for kind in names * times]
        return cls(
            n_vocab=size,
            n_ctx=config.n_ctx,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            attention=tuple(kinds or ["local" if config.local else "global"] * config.n_layer),
            block=config.fixed_attn_block_size,
            offset=config.layer_offset,
            window=config.attention_window,
            activation=config.activation,
            multiple=config.vocab_multiple,
        )

    @property
    def rows(self) -> int:
        """Rows of the embedding table: n_vocab and its padding."""
        return math.ceil(self.n_vocab / self.multiple) * self.multiple

    def shift(self, layer: int) -> int:
        """By how many tokens block `layer` shifts its grid of local spans."""
        return (layer * self.offset) % self.block

    @cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names (GPT-2's own) and shapes of all weights, in the order of the forward pass; matrices are [in, out]."""
        width = self.n_embd
        found: dict[str, tuple[int, ...]] = {"wte.weight": (self.rows, width), "wpe.weight": (self.n_ctx, width)}
        for i in range(self.n_layer):
            for name, shape in block_weights(width).items():
                found[f"h.{i}.{name}"] = shape
        found |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
        return found

    @property
    def parameters(self) -> int:
        """Weights that mean something: the padding of the vocabulary is not counted."""
        padding = (self.rows - self.n_vocab) * self.n_embd
        return sum(math.prod(shape) for shape in self.weights.values()) - padding

    @property
    def training_flops(self) -> float:
        """Floating-point operations of one trained token: 6 a weight in use, and attention (PaLM, appendix B).

        Positions are looked up, not multiplied, so they do not count; attention counts the keys a query may see on average.
        """
        dense = self.parameters - self.n_ctx * self.n_embd
        reach = {"global": self.n_ctx, "local": self.block, "sliding": self.window}
        seen = sum(min(reach[kind], self.n_ctx) for kind in self.attention)
        return 6.0 * dense + 12.0 * self.n_embd * seen


def block_weights(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one block's weights."""
    return {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, 4 * width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (4 * width, width),
        "mlp.c_proj.bias": (width,),
    }
