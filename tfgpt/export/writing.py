"""A model in the form that others read, in a new folder that is there whole or not at all."""

from __future__ import annotations

import importlib
import math
import os
import secrets
import shutil

from tfgpt import files
from tfgpt.errors import Failure, UserError
from tfgpt.quiet import quiet_start
from tfgpt.weights.source import Source, finite

# What each form is for, and the module whose write(source, folder) makes it.
FORMS = {
    "huggingface": ("transformers, and all that reads its folders", "tfgpt.weights.huggingface"),
    "openai": ("OpenAI's and ConnorJL's code: a TensorFlow checkpoint", "tfgpt.weights.openai"),
    "savedmodel": ("TensorFlow Serving: text in, text out, without our code", "tfgpt.export.savedmodel"),
    "keras": ("one .keras file of stock layers", "tfgpt.export.keras_file"),
    "litert": ("phones and small boards: int8 weights in a .tflite file", "tfgpt.export.litert"),
}


MARGIN = 10_000_000  # bytes of everything else: tokenizer, graph


def write(source: Source, form: str, folder: str) -> None:
    """Write the model in that form; a UserError where the form cannot hold it, and then nothing is left behind."""
    if files.is_remote(folder):
        raise UserError("models are exported on this machine", where=folder, fix="export here, and copy it there")
    folder = folder.rstrip("/")
    place, name = os.path.split(folder)
    with quiet_start():
        module = importlib.import_module(FORMS[form][1])
        if module.__name__.startswith("tfgpt.export."):
            import keras  # noqa: F401  (which brings TensorFlow, and what that has to say)
    staging = os.path.join(place, f".{name}.tmp-{os.getpid()}-{secrets.token_hex(3)}")
    size = 4 * sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    files.require_space(place or ".", (2 if form == "keras" else 1) * size + MARGIN, purpose="the export")
    try:
        os.makedirs(staging)
        module.write(finite(source), staging)
        for below, _, names in os.walk(staging, topdown=False):
            for file in names:
                _sync(os.path.join(below, file))
            files.sync_folder(below)
        os.rename(staging, folder)
        files.sync_folder(place or ".")
    except UserError:
        raise
    except Exception as error:
        # What TensorFlow and HDF5 raise over a full disk is of many classes.
        said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise Failure(f"the export could not be written: {said}", where=folder) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sync(path: str) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
