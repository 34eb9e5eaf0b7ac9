"""Keys about the network: its shape, attention, initialisation, dropout and precision."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from tfgpt.config.kinds import AttentionTypes, Count, CountOrZero, Recompute, Share

TOKENIZER_SIZES = {"gpt2": 50257, "byte": 257}


def _default_vocabulary(values: dict[str, Any]) -> int | None:
    # Another encoder folder may hold another vocabulary; only the tokenizer itself can then say how large it is.
    return None if values.get("encoder_path") else TOKENIZER_SIZES.get(values.get("tokenizer", "gpt2"))


def _default_heads(values: dict[str, Any]) -> int:
    width = int(values.get("n_embd", 768))
    # Heads of 64, or the next count below that divides the width, so that the default never clashes with n_embd.
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)


class ModelKeys(BaseModel):
    """Model"""

    model: Literal["GPT2"] = Field(default="GPT2", description="The architecture.")
    n_vocab: Count | None = Field(
        default_factory=_default_vocabulary,
        description="Number of token ids; null: taken from the tokenizer when the data is opened.",
        json_schema_extra={"default_words": "the tokenizer's size: 50257 for gpt2, 257 for byte"},
    )
    vocab_multiple: Count = Field(
        default=64,
        description="The embedding table is padded to a multiple of this; padding is never sampled or trained.",
    )
    n_ctx: Count = Field(default=1024, description="Longest context, in tokens.")
    n_embd: Count = Field(default=768, description="Width of the network; a multiple of n_head.")
    n_layer: Count = Field(default=12, description="Number of blocks.")
    n_head: Count = Field(
        default_factory=_default_heads,
        description="Attention heads a block.",
        json_schema_extra={"default_words": "n_embd / 64 (the next lower count that divides n_embd)"},
    )
    local: bool = Field(
        default=False, description="Attention in every block only inside spans of fixed_attn_block_size."
    )
    fixed_attn_block_size: Count = Field(
        default=128, description="Span of local attention, in tokens; it divides n_ctx."
    )
    layer_offset: CountOrZero = Field(
        default=16, description="Block i shifts the grid of spans by (i * layer_offset) mod fixed_attn_block_size."
    )
    attention_types: AttentionTypes | None = Field(
        default=None, description="Kind of attention block by block, in place of `local`; it covers n_layer blocks."
    )
    attention_window: Count = Field(
        default=256,
        description='With "sliding" in attention_types: how many tokens a position sees, itself among them.',
    )
    activation: Literal["gelu_tanh", "gelu"] = Field(
        default="gelu_tanh", description="gelu_tanh: GPT-2's approximation; gelu: the exact one, as in nanoGPT."
    )
    init: Literal["gpt2", "seed"] = Field(
        default="gpt2",
        description="gpt2: N(0, 0.02), residual projections / sqrt(2 n_layer); seed: 0.02 with the two scale_by_ keys.",
    )
    scale_by_depth: bool = Field(
        default=True, description='With init "seed": mlp output weights are scaled by 1 / sqrt(n_layer).'
    )
    scale_by_in: bool = Field(default=True, description='With init "seed": weights are scaled by 1 / sqrt(inputs).')
    embed_dropout: Share = Field(default=0.1, description="Dropout on the sum of token and position embeddings.")
    attn_dropout: Share = Field(default=0.1, description="Dropout on attention weights.")
    res_dropout: Share = Field(default=0.1, description="Dropout on what each half of a block adds.")
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description="What products are computed in; weights stay float32, as do softmax and loss. auto: what the device is good at.",
    )
    recompute: Recompute = Field(
        default="none", description="Save memory by computing activations again in the backward pass, by block or by n."
    )
