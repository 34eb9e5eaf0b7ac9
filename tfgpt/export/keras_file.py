"""A model as one .keras file made of Keras's own layers: it loads without tfgpt, on any backend of Keras 3."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.config import Config
from tfgpt.errors import UserError
from tfgpt.weights.source import Source

Kind = tuple[str, int, int]  # "global", "sliding" or "local"; size of its window or span; shift of the grid of spans

HOW = (
    'model = keras.saving.load_model("model.keras")  # KERAS_BACKEND may be tensorflow, torch or jax',
    "logits = model(ids)  # ids int32 [B, T] with T <= n_ctx, logits float32 [B, T, n_vocab]",
    "the ids are those of the tokenizer in the folder beside this file",
)


def write(source: Source, folder: str) -> None:
    """Write `folder`/model.keras, the tokenizer in `folder`/tokenizer, and config.json with the keys and how to use it.

    The model takes ids int32 [B, T], T <= n_ctx, and gives logits float32 [B, T, n_vocab]. Memory: the model, and
    its largest tensor three times. Disk: twice the model while it is written.

    >>> write(source, "exported")                                               # doctest: +SKIP
    >>> keras.saving.load_model("exported/model.keras")(ids).shape              # doctest: +SKIP
    TensorShape([1, 10, 50257])
    """
    import keras

    model = _network(source.keys)
    for place, value in _values(model, source):
        place.assign(value)
    files.make_folder(folder)
    # Where memory looks ample, Keras holds a zipped file's weights in it two more times. An unzipped folder goes to the disk
    # as it is, and the zip is made from there.
    with tempfile.TemporaryDirectory(prefix=".keras-", dir=None if files.is_remote(folder) else folder) as unzipped:
        keras.saving.save_model(model, unzipped, zipped=False)
        del model
        with files.atomic_writer(files.join(folder, "model.keras")) as stream, zipfile.ZipFile(stream, "w") as whole:
            for name in ("metadata.json", "config.json", "model.weights.h5"):
                whole.write(os.path.join(unzipped, name), name)
    write_beside(source, folder, HOW)


def write_beside(source: Source, folder: str, how: tuple[str, ...]) -> None:
    """The tokenizer, and config.json: the model's keys, and `how` to use it."""
    if source.tokenizer is not None:
        source.tokenizer.save(files.join(folder, "tokenizer"))
    content = {**source.keys, "made_from": source.kind, "how_to_use": list(how)}
    files.write_text(files.join(folder, "config.json"), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def kinds(keys: Mapping[str, Any]) -> list[Kind]:
    """Which attention each block has, in numbers that `seen` understands.

    >>> kinds({"n_layer": 2, "attention_types": [[["global", "sliding"], 1]], "attention_window": 64})
    [('global', 0, 0), ('sliding', 64, 0)]
    """
    size, offset, window = (
        keys.get(name, Config.model_fields[name].default)
        for name in ("fixed_attn_block_size", "layer_offset", "attention_window")
    )
    words = [word for some, times in keys.get("attention_types") or [] for word in list(some) * times]
    words = words or ["local" if keys.get("local") else "global"] * keys["n_layer"]
    if len(words) != keys["n_layer"]:
        raise UserError(
            f"attention_types covers {len(words)} blocks, but n_layer is {keys['n_layer']}", fix="correct either key"
        )
    found: list[Kind] = []
    for i, word in enumerate(words):
        known = {"global": (word, 0, 0), "sliding": (word, window, 0), "local": (word, size, (i * offset) % size)}
        if word not in known:
            raise UserError(f"attention of kind {word!r} cannot be exported", nearest=", ".join(known))
        found.append(known[word])
    return found


def seen(m, query, key, kind: Kind):
    """Whether the position `query` sees the position `key`; `m` is keras.ops or numpy, which name all of this alike."""
    word, size, shift = kind
    mask = m.greater_equal(query, key)
    if word == "sliding":
        mask = m.logical_and(mask, m.less(m.subtract(query, key), size))
    elif word == "local":
        spans = (m.floor_divide(m.add(place, shift), size) for place in (query, key))
        mask = m.logical_and(mask, m.equal(*spans))
    return mask


def is_tanh(keys: Mapping[str, Any]) -> bool:
    """Whether GELU is GPT-2's approximation rather than the exact one."""
    word = keys.get("activation", "gelu_tanh")
    if word not in ("gelu_tanh", "gelu"):
        raise UserError(f"activation {word!r} cannot be exported", nearest="gelu_tanh, gelu")
    return word == "gelu_tanh"


def _network(keys: Mapping[str, Any]):
    """The functional model, all of its weights zero."""
    import keras
    from keras import layers, ops

    if not hasattr(layers, "ReversibleEmbedding"):
        # Other ways to use one table at both ends put a second copy of it into the file, or code that safe mode refuses.
        raise UserError(
            f"Keras {keras.__version__} has no layer for an embedding that is also the output",
            fix='pip install --upgrade "keras>=3.15"',
        )
    width, heads, approximate = keys["n_embd"], keys["n_head"], is_tanh(keys)
    # A user's global dtype policy must not make the export half-precise. Random first values would only cost time, here and
    # at every loading.
    float32 = {"dtype": "float32"}
    zero = {"kernel_initializer": "zeros", **float32}
    ids = keras.Input((None,), dtype="int32", name="ids")
    # In a functional graph T has no number; a running sum over ones counts the positions whatever it is.
    places = ops.subtract(ops.cumsum(ops.ones_like(ids), axis=1), 1)  # [B, T]
    rows, columns = ops.expand_dims(places, 2), ops.expand_dims(places, 1)
    table = layers.ReversibleEmbedding(keys["n_vocab"], width, embeddings_initializer="zeros", name="wte", **float32)
    positions = layers.Embedding(keys["n_ctx"], width, embeddings_initializer="zeros", name="wpe", **float32)
    x = ops.add(table(ids), positions(places))
    masks: dict[Kind, Any] = {}
    for i, kind in enumerate(kinds(keys)):
        if kind not in masks:
            masks[kind] = seen(ops, rows, columns, kind)  # [B, T, T]
        h = f"h_{i}_"
        a = layers.LayerNormalization(epsilon=1e-5, name=h + "ln_1", **float32)(x)
        attention = layers.MultiHeadAttention(heads, width // heads, name=h + "attn", **zero)
        x = ops.add(x, attention(a, a, attention_mask=masks[kind]))
        a = layers.LayerNormalization(epsilon=1e-5, name=h + "ln_2", **float32)(x)
        a = ops.gelu(layers.Dense(4 * width, name=h + "c_fc", **zero)(a), approximate=approximate)
        x = ops.add(x, layers.Dense(width, name=h + "c_proj", **zero)(a))
    x = layers.LayerNormalization(epsilon=1e-5, name="ln_f", **float32)(x)
    return keras.Model(ids, table(x, reverse=True), name="gpt")


def _values(model, source: Source):
    """Each of the model's variables with its value, read when its turn comes."""

    def read(name: str) -> np.ndarray:
        return source.tensors[name].read()

    width, heads = source.keys["n_embd"], source.keys["n_head"]
    yield model.get_layer("wte").embeddings, read("wte.weight")
    yield model.get_layer("wpe").embeddings, read("wpe.weight")
    for i in range(source.keys["n_layer"]):
        for ours, theirs in (("mlp.c_fc", "c_fc"), ("mlp.c_proj", "c_proj")):
            dense = model.get_layer(f"h_{i}_{theirs}")
            yield dense.kernel, read(f"h.{i}.{ours}.weight")
            yield dense.bias, read(f"h.{i}.{ours}.bias")
        attention = model.get_layer(f"h_{i}_attn")
        # c_attn holds queries, keys and values side by side; Keras has a layer for each, its heads in an axis of their own.
        kernels = np.split(read(f"h.{i}.attn.c_attn.weight"), 3, axis=-1)
        biases = np.split(read(f"h.{i}.attn.c_attn.bias"), 3)
        parts = (attention.query_dense, attention.key_dense, attention.value_dense)
        for part, kernel, bias in zip(parts, kernels, biases, strict=True):
            yield part.kernel, kernel.reshape(width, heads, -1)
            yield part.bias, bias.reshape(heads, -1)
        yield attention.output_dense.kernel, read(f"h.{i}.attn.c_proj.weight").reshape(heads, -1, width)
        yield attention.output_dense.bias, read(f"h.{i}.attn.c_proj.bias")
    for ours in [f"h.{i}.ln_{n}" for i in range(source.keys["n_layer"]) for n in (1, 2)] + ["ln_f"]:
        norm = model.get_layer(ours.replace(".", "_"))
        yield norm.gamma, read(ours + ".weight")
        yield norm.beta, read(ours + ".bias")
