"""model.keras against the NumPy network, in this process and in ones that have no tfgpt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from math import erf

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.model import reference
from tests.model.reference import Reference, spans
from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.export import keras_file
from tfgpt.weights.source import Source, Tensor, checked, expected

KEYS = {"n_vocab": 257, "n_ctx": 24, "n_embd": 32, "n_layer": 3, "n_head": 4}
IDS = np.random.default_rng(1).integers(0, 257, (2, 24)).astype("int32")

ALONE = """
import sys
sys.modules["tfgpt"] = None
sys.modules["triton"] = None
import keras, numpy
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
ids = numpy.load(sys.argv[2])
found = [keras.ops.convert_to_numpy(model(ids[:, :length])) for length in (1, 7, 24)]
assert keras.backend.backend() == sys.argv[4] and not any(m.startswith("tfgpt.") for m in sys.modules)
numpy.savez(sys.argv[3], *found)
"""


def made(*, tokenizer=None, **keys):
    """A source of random weights, none of them zero or one, and the weights."""
    keys, rng = KEYS | keys, np.random.default_rng(0)
    weights = {}
    for name, shape in expected(keys).items():
        one = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        weights[name] = (one + rng.normal(0, 0.2, shape)).astype("float32")
    tensors = {name: Tensor(value.shape, lambda value=value: value) for name, value in weights.items()}
    return checked(Source("random weights", "nowhere", keys, tensors, tokenizer)), weights


def window(length, size):
    """The mask of sliding attention, a pair of positions at a time."""
    return np.array([[i - size < j <= i for j in range(length)] for i in range(length)])


def truth(weights, ids, mask=None, **keys):
    return Reference(weights, heads=(KEYS | keys)["n_head"], n_vocab=(KEYS | keys)["n_vocab"], mask=mask).logits(ids)


def logits(folder, ids):
    import keras

    return np.array(keras.saving.load_model(os.path.join(folder, "model.keras"))(ids))


def test_logits_are_those_of_the_reference_for_any_length(tmp_path):
    source, weights = made()
    keras_file.write(source, str(tmp_path))
    for length in (1, 7, 24):
        found = logits(tmp_path, IDS[:, :length])
        assert found.dtype == np.float32 and found.shape == (2, length, 257)
        np.testing.assert_allclose(found, truth(weights, IDS[:, :length]), atol=2e-5)


@pytest.mark.parametrize(
    "keys, mask",
    [
        (
            {"attention_types": [[["global", "sliding"], 1], [["sliding"], 1]], "attention_window": 5},
            lambda i, n: window(n, n if i == 0 else 5),
        ),
        ({"local": True, "fixed_attn_block_size": 8, "layer_offset": 5}, lambda i, n: spans(n, 8, (0, 5, 2)[i])),
        (
            {"attention_types": [[["local"], 2], [["global"], 1]], "fixed_attn_block_size": 12, "layer_offset": 7},
            lambda i, n: spans(n, (12, 12, n)[i], (0, 7, 0)[i]),
        ),
    ],
    ids=["sliding", "local", "mixed"],
)
def test_no_position_sees_more_or_less_than_its_attention_allows(tmp_path, keys, mask):
    source, weights = made(**keys)
    keras_file.write(source, str(tmp_path))
    np.testing.assert_allclose(logits(tmp_path, IDS), truth(weights, IDS, mask), atol=2e-5)
    assert np.abs(truth(weights, IDS, mask) - truth(weights, IDS)).max() > 0.1, "the mask makes no difference"


def test_exact_gelu(tmp_path, monkeypatch):
    source, weights = made(activation="gelu")
    keras_file.write(source, str(tmp_path))
    rough = truth(weights, IDS)
    monkeypatch.setattr(reference, "gelu", lambda x: 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2))))
    exact = truth(weights, IDS)
    found = logits(tmp_path, IDS)
    np.testing.assert_allclose(found, exact, atol=2e-5)
    assert np.abs(found - rough).max() > 5 * np.abs(found - exact).max()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_loads_in_a_process_without_tfgpt(tmp_path, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    kinds = {"attention_types": [[["global", "local", "sliding"], 1]], "attention_window": 5}
    source, weights = made(**kinds, fixed_attn_block_size=8, layer_offset=5)
    keras_file.write(source, str(tmp_path))
    np.save(tmp_path / "ids.npy", IDS)
    names = [str(tmp_path / name) for name in ("model.keras", "ids.npy", "found.npz")]
    env = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *names, backend], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    def mask(i, n):
        return (window(n, n), spans(n, 8, 5), window(n, 5))[i]

    with np.load(names[2]) as found:
        for length, one in zip((1, 7, 24), found.values(), strict=True):
            np.testing.assert_allclose(one, truth(weights, IDS[:, :length], mask), atol=2e-5)


def test_the_file_holds_the_token_table_once(tmp_path):
    size = {}
    for rows in (5000, 10000):
        source, weights = made(n_vocab=rows, n_layer=1)
        keras_file.write(source, str(tmp_path / str(rows)))
        size[rows] = (tmp_path / str(rows) / "model.keras").stat().st_size
    assert abs(size[10000] - size[5000] - 5000 * 32 * 4) < 1000
    held = sum(value.nbytes for value in weights.values())
    assert size[10000] < held + 100_000


def test_everything_needed_lies_in_the_folder_and_nothing_else(tmp_path):
    tokenizer = tokenizers.from_name("byte")
    source, _ = made(tokenizer=tokenizer)
    keras_file.write(source, str(tmp_path / "new"))
    assert sorted(os.listdir(tmp_path / "new")) == ["config.json", "model.keras", "tokenizer"]
    assert tokenizers.load(tmp_path / "new" / "tokenizer").fingerprint == tokenizer.fingerprint
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert written.items() >= KEYS.items() and "load_model" in written["how_to_use"][0]
    with zipfile.ZipFile(tmp_path / "new" / "model.keras") as whole:
        assert whole.testzip() is None and "tfgpt" not in whole.read("config.json").decode()


def test_a_global_half_precision_policy_changes_nothing(tmp_path):
    import keras

    source, weights = made()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        keras_file.write(source, str(tmp_path))
        found = logits(tmp_path, IDS)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(found, truth(weights, IDS), atol=2e-5)


def test_every_tensor_is_read_once(tmp_path):
    source, weights = made()
    read = []
    tensors = {
        name: Tensor(value.shape, lambda name=name, value=value: read.append(name) or value)
        for name, value in weights.items()
    }
    keras_file.write(Source(source.kind, source.path, source.keys, tensors), str(tmp_path))
    assert sorted(read) == sorted(weights)


@pytest.mark.parametrize(
    "keys, word",
    [
        ({"activation": "relu"}, "relu"),
        ({"attention_types": [[["linear"], 3]]}, "linear"),
        ({"attention_types": [[["global"], 2]]}, "covers 2 blocks"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, keys, word):
    source, _ = made(**keys)
    with pytest.raises(UserError, match=word):
        keras_file.write(source, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_keras_without_the_tied_layer_is_refused(tmp_path, monkeypatch):
    import keras

    monkeypatch.delattr(keras.layers, "ReversibleEmbedding")
    with pytest.raises(UserError, match="pip install"):
        keras_file.write(made()[0], str(tmp_path))
