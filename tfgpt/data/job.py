"""What one encode is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tfgpt.data.documents import Rules


@dataclass(frozen=True)
class Job:
    """One encode: what is read, how it is treated, where it goes."""

    inputs: Sequence[str]
    output: str
    rules: Rules = field(default_factory=Rules)
    name: str = "text"
    tokenizer: str = "gpt2"  # "gpt2" | "char" | "char+bytes" | "byte" | "bpe:4096" | a folder
    encoder_path: str | None = None
    split: str = "auto"  # "auto" | "documents" | "tail" | "none"
    format: str | None = None
    drop_duplicates: bool = True
    shard_bytes: int = 64 << 20
    files_per: int | None = None
    processes: int | None = None  # None: as many as the machine has cores
    runner: str | None = None  # an Apache Beam runner instead of local processes
    runner_options: Sequence[str] = ()
    spool: str | None = None  # where Beam workers leave their results; a bucket, if they run on other machines
    published: str | None = None  # the bucket that a finished folder is sent to
    by_content: bool = False  # know the input by its content instead of by names and modification times
    restart: bool = False
    quiet: bool = False
