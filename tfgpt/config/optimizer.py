"""Keys about learning: the optimizer, the learning rate over time, clipping and accumulation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from tfgpt.config.kinds import Count, CountOrZero, Positive, Share, Unsigned


def _default_beta1(values: dict[str, Any]) -> float:
    return 0.0 if values.get("opt_name") in ("adafactor", "sgd") else 0.9


def _default_warmup(values: dict[str, Any]) -> int:
    return int(min(2000, values.get("max_steps", 500_000) // 10))


class OptimizerKeys(BaseModel):
    """Optimizer and learning rate"""

    opt_name: Literal["adam", "adafactor", "sgd", "muon"] = Field(
        default="adam",
        description="adam is AdamW; adafactor keeps factored moments; muon treats matrices, adam the rest.",
    )
    lr: Positive = Field(default=0.00025, description="Highest learning rate.")
    max_steps: Count = Field(default=500_000, description="Training stops at exactly this step.")
    warmup_steps: CountOrZero = Field(
        default_factory=_default_warmup,
        description="Steps in which the learning rate grows linearly to lr; 0: none.",
        json_schema_extra={"default_words": "2000, or max_steps / 10 if that is less"},
    )
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine", description="After warm-up; wsd is stable, then falls over the last fifth of max_steps."
    )
    min_lr: Unsigned = Field(default=0.0, description="Learning rate reached at exactly max_steps; at most lr.")
    weight_decay: Unsigned = Field(default=0.0, description="Decoupled decay, times the learning rate; 0: none.")
    decay: Literal["matrices", "all"] = Field(
        default="matrices", description="What weight_decay touches; all includes biases and LayerNorm, as in 2020."
    )
    beta1: Share = Field(
        default_factory=_default_beta1,
        description="Momentum; the matrices of muon always have 0.95.",
        json_schema_extra={"default_words": "0.9; 0.0 for adafactor and sgd"},
    )
    beta2: Share = Field(
        default=0.98, description="Average of squared gradients (adam; adafactor with decay_type adam)."
    )
    epsilon: Positive = Field(default=1e-9, description="Added to the divisor (adam).")
    decay_type: Literal["pow", "adam"] = Field(
        default="pow", description="Adafactor: pow is 1 - (t+1)^-decay_exponent; adam is the bias-corrected beta2."
    )
    decay_exponent: Positive = Field(default=0.8, description="Adafactor with decay_type pow.")
    clip: Unsigned = Field(
        default=1.0, description="Largest global norm of the gradient, after all replicas' sum; 0: off."
    )
    accumulate: Count = Field(
        default=1,
        description="Each batch is worked through in this many equal parts, with the same result in less memory.",
    )
