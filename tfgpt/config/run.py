"""Keys about a run: batches, how often to evaluate and save, where to, from what to start, and what generation does."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from tfgpt.config.kinds import Count, CountOrZero, EvalSteps, Name, Paths, Unsigned


class RunKeys(BaseModel):
    """Training run"""

    model_path: Name = Field(
        default="models/model",
        description="Folder of checkpoints and logs; a run that finds its checkpoint there goes on. `model_dir` means the same.",
        json_schema_extra={"default_words": "models/NAME, after the configuration's file name"},
    )
    train_batch_size: Count = Field(
        default=32, description="Windows in one update, over all devices and `accumulate` parts."
    )
    eval_batch_size: Count = Field(
        default_factory=lambda values: values.get("train_batch_size", 32),
        description="Windows in one evaluation batch, over all devices.",
        json_schema_extra={"default_words": "train_batch_size"},
    )
    train_steps: Count = Field(default=10_000, description="Steps between two evaluations.")
    eval_steps: EvalSteps = Field(
        default=10, description="Batches in one evaluation, always the same ones; 0: no evaluation."
    )
    iterations: Count = Field(default=100, description="Steps in one call to the device.")
    seed: CountOrZero = Field(
        default=1337, description="Weights, data order and dropout follow from this and the step."
    )
    save_steps: CountOrZero = Field(
        default_factory=lambda values: values.get("train_steps", 10_000),
        description="Save a checkpoint every so many steps; 0: by time only.",
        json_schema_extra={"default_words": "train_steps"},
    )
    save_minutes: Unsigned = Field(
        default=10.0, description="Save a checkpoint every so many minutes too; 0: by steps only."
    )
    keep_last: Count = Field(
        default=5, description="Newest checkpoints kept; the best one by evaluation is kept besides."
    )
    milestone_steps: CountOrZero = Field(
        default=0, description="Checkpoints at multiples of this are kept for good; 0: none."
    )
    guard: Literal["rollback", "stop", "off"] = Field(
        default="rollback",
        description="NaN or a jump of the loss: return to the last good checkpoint once, past that data; or stop; or go on.",
    )
    init_from: Name | None = Field(
        default=None, description="Checkpoint folder whose weights (only) a new run starts from."
    )
    trainable: Paths = Field(
        default=[], description='Patterns of weight names to train, like "h.11.*"; none: all of them.'
    )

    xla: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compile the step with XLA; auto: by tfgpt's own code on one CPU, XLA elsewhere, where it is faster.",
    )
    tensorboard: bool = Field(default=True, description="Write TensorBoard's event files beside metrics.jsonl.")
    wandb: Name | None = Field(
        default=None, description="Weights & Biases project that metrics go to as well; null: none."
    )


class GenerationKeys(BaseModel):
    """Generation"""

    top_k: CountOrZero = Field(default=0, description="Sample among the k likeliest tokens; 0: among all.")
    predict_batch_size: Count = Field(default=1, description="Samples made from one prompt.")
    predict_path: Name = Field(default="logs/predictions.txt", description="File to which generated text is appended.")
    sample_every: CountOrZero = Field(
        default=0, description="Print a sample every so many steps of training; 0: never."
    )
