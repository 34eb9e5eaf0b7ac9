"""Keys about the data: where the text is, how it becomes tokens, and how records become windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tfgpt.config.kinds import Count, Input, Name, Paths, Positive, Share, Tokenizer

LINEAGE = ("train", "eval", "stitch", "mode", "weight")


class Dataset(BaseModel):
    """One part of a mixture; the list [train, eval, stitch, mode, weight] of this lineage is read as well."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    train: Paths = Field(description="TFRecord files to train on.")
    eval: Paths = Field(default=[], description="TFRecord files to evaluate on.")
    weight: Positive = Field(default=1.0, description="Its share of the mixture, relative to the other weights.")
    mode: Literal["packed", "random_sample", "sample", "chunk"] = Field(
        default="packed",
        description="packed: contiguous windows, each token once an epoch; random_sample: a random window of stitched "
        "documents; sample: their first n_ctx+1 tokens; chunk: records that are n_ctx+1 long already.",
    )
    stitch: Count | None = Field(
        default=None,
        description="Documents joined into one text before a window is taken; null: computed from lengths.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_list(cls, value: Any) -> Any:
        return as_mapping(value)


def as_mapping(value: Any) -> Any:
    """A dataset written as the lineage's list of five, as an object; anything else is returned as it is."""
    if not isinstance(value, list):
        return value
    if len(value) != len(LINEAGE):
        words = f"an object, or a list of five: {', '.join(LINEAGE)}"
        raise PydanticCustomError("illegal", "must be {words}", {"words": words})
    return dict(zip(LINEAGE, value, strict=True))


def _default_input(values: dict[str, Any]) -> str:
    if values.get("text") or values.get("datasets"):
        return "tfrecords"
    folder = values.get("data_path")
    return "tfrecords" if folder and Path(folder, "ledger.json").is_file() else "openwebtext"


class DataKeys(BaseModel):
    """Data"""

    text: Paths = Field(
        default=[], description="Raw text (folders, files, globs) that is encoded once, on first use, with `tokenizer`."
    )
    text_key: Name = Field(
        default="text", description="Field of .jsonl, or column of .csv and .parquet, with the text."
    )
    data_path: Name | None = Field(
        default=None, description="Folder of TFRecords; with `text`, the folder in which the encoded text is kept."
    )
    datasets: list[Dataset] = Field(
        default=[], description="A weighted mixture of TFRecord files; `data_path` is then not read."
    )
    input: Input = Field(
        default_factory=_default_input,
        description="Who makes the batches: a registered name, or a function f(params, eval=False) of your own.",
        json_schema_extra={"default_words": '"tfrecords" with text, datasets or a ledger, else "openwebtext"'},
    )
    tokenizer: Tokenizer = Field(
        default="gpt2", description="How text becomes ids; bpe:N is trained on your text, a folder is read as it is."
    )
    encoder_path: Name | None = Field(
        default=None, description="Folder of encoder.json and vocab.bpe; null: ./encoder or the download cache."
    )
    eval_fraction: Share = Field(
        default=0.05, description="Share of the documents of `text` held out for evaluation, chosen by their hash."
    )
    minimum_size: Count = Field(default=25, description="Documents of `text` with fewer tokens than this are dropped.")
    fix_text: bool = Field(
        default=True, description="Repair `text` with ftfy (broken encodings, NFKC) before encoding."
    )
    drop_duplicates: bool = Field(default=True, description="Keep only the first of documents that are exactly equal.")
    document_mask: bool = Field(
        default=False, description="Packed windows: no attention from one document into the one before it."
    )
    loss_on: Literal["all", "sent", "received"] = Field(
        default="all",
        description="Tokens that count in the loss. Of chats, sent: only what I say (lines 1|); received: only what the "
        "others say (lines 0|); each message with its `<EOM>`.",
    )
    noise: Share = Field(
        default=0.0, description="Probability that an input token is replaced by a random one in training; labels stay."
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        default="stop", description="A damaged record: stop and name it, or skip it, count it and say so."
    )
