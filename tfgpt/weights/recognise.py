"""Which reader a model of other people is for. What it is follows from what lies there; nobody has to say."""

from __future__ import annotations

from types import ModuleType

from tfgpt import files
from tfgpt.errors import UserError
from tfgpt.weights import hdf5, huggingface, nanogpt, openai
from tfgpt.weights.source import Source

READERS: tuple[ModuleType, ...] = (huggingface, openai, nanogpt, hdf5)
KNOWN = (
    "a TensorFlow checkpoint (model.ckpt.index beside its data: OpenAI's, ConnorJL's, an Estimator's run), a Hugging Face"
    " folder (config.json beside model.safetensors), nanoGPT's ckpt.pt, an HDF5 snapshot"
)


def recognises(path: str) -> bool:
    """Whether one of the readers knows what lies at `path`."""
    return not files.is_remote(path) and any(reader.recognises(path) for reader in READERS)


def read(path: str, *, n_head: int | None = None) -> Source:
    """The model at `path`; `n_head` is for checkpoints that do not say how many heads they have."""
    if files.is_remote(path):
        raise UserError(
            "released checkpoints are read from this machine",
            where=path,
            fix="copy it here first: gcloud storage cp -r",
        )
    for reader in READERS:
        if reader.recognises(path):
            found: Source = reader.read(path, n_head=n_head) if reader in (openai, hdf5) else reader.read(path)
            if n_head not in (None, found.keys["n_head"]):
                heads = found.keys["n_head"]
                raise UserError(f"{n_head} heads were asked for, it has {heads}", where=path, fix="leave n_head out")
            return _fitting(found)
    there = files.is_folder(path) or files.exists(path)
    raise UserError(
        "this is no model that tfgpt knows" if there else "there is nothing here",
        where=path,
        nearest=KNOWN,
        fix="name the folder that holds one of these",
    )


def _fitting(source: Source) -> Source:
    """The source, unless the tokenizer beside it belongs to a larger model."""
    if source.tokenizer is not None and source.tokenizer.n_vocab > source.keys["n_vocab"]:
        raise UserError(
            f"the tokenizer beside this model has {source.tokenizer.n_vocab:,} ids, the model only {source.keys['n_vocab']:,}",
            where=source.path,
            fix="put the tokenizer there that the model was trained with, or none",
        )
    return source
