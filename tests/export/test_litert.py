"""model.tflite, run by LiteRT's interpreter, against the NumPy network."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest

from tests.export.test_keras_file import KEYS, made, truth, window
from tests.model.reference import spans
from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.export import litert
from tfgpt.weights.source import Source, Tensor

LARGER = {"n_vocab": 1000, "n_ctx": 16, "n_embd": 64, "n_layer": 2}


def interpreter(folder):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow

        Interpreter = tensorflow.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Interpreter(model_path=os.path.join(folder, "model.tflite"))


def logits(folder, ids):
    """[B, T, n_vocab], one position at a time."""
    run = interpreter(folder).get_signature_runner()
    rows = [[run(ids=row[None], position=np.int32([i]))["logits"][0] for i in range(ids.shape[1])] for row in ids]
    return np.array(rows)


def error(found, want):
    """Of int8 weights and activations: the root mean square of the error, relative to the spread of the logits."""
    return np.sqrt(np.mean((found - want) ** 2)) / want.std()


def ids_of(keys, seed=1):
    return np.random.default_rng(seed).integers(0, keys["n_vocab"], (4, keys["n_ctx"])).astype("int32")


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    source, weights = made(tokenizer=tokenizers.from_name("byte"), **LARGER)
    litert.write(source, str(folder))
    return folder, weights


def test_logits_are_near_the_reference_and_choose_the_same_ids(larger):
    folder, weights = larger
    ids = ids_of(KEYS | LARGER)
    found, want = logits(folder, ids), truth(weights, ids, **LARGER)
    assert found.dtype == np.float32
    assert error(found, want) < 0.05
    assert np.mean(found.argmax(-1) == want.argmax(-1)) >= 0.95


def test_what_fills_up_the_right_side_is_never_seen(larger):
    folder, _ = larger
    run = interpreter(folder).get_signature_runner()
    ids = ids_of(KEYS | LARGER)[:1]
    other = ids.copy()
    other[:, 6:] = 0
    first, second = (run(ids=one, position=np.int32([5]))["logits"] for one in (ids, other))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - run(ids=other, position=np.int32([6]))["logits"]).max() > 0.1


def test_only_built_in_operations(larger):
    folder, _ = larger
    names = {one["op_name"] for one in interpreter(folder)._get_ops_details()}
    assert names >= {"EMBEDDING_LOOKUP", "FULLY_CONNECTED", "SOFTMAX"}
    assert not [name for name in names if name.startswith("Flex") or name.lower() == "custom"]


def test_the_file_is_int8_and_holds_the_token_table_once(larger):
    folder, weights = larger
    size = (folder / "model.tflite").stat().st_size
    held = sum(value.size for value in weights.values())
    assert size < 0.4 * 4 * held
    # One byte a weight, and for each row of the table a scale and a zero point (12 bytes); a second table is 64 kB more.
    assert size < held + 1000 * 12 + 45_000
    tables = [one for one in interpreter(folder).get_tensor_details() if list(one["shape"]) == [1000, 64]]
    assert {one["dtype"] for one in tables} == {np.int8}


@pytest.mark.parametrize(
    "keys, mask",
    [
        (
            {"attention_types": [[["global", "sliding", "sliding"], 1]], "attention_window": 5},
            lambda i, n: window(n, n if i == 0 else 5),
        ),
        (
            {"local": True, "fixed_attn_block_size": 8, "layer_offset": 5, "activation": "gelu"},
            lambda i, n: spans(n, 8, (0, 5, 2)[i]),
        ),
    ],
    ids=["sliding", "local"],
)
def test_attention_that_does_not_see_everything(tmp_path, keys, mask):
    source, weights = made(**keys)
    litert.write(source, str(tmp_path))
    found = logits(tmp_path, ids_of(KEYS))
    assert error(found, truth(weights, ids_of(KEYS), mask)) < 0.05
    assert error(found, truth(weights, ids_of(KEYS))) > 0.2, "the mask makes no difference"


def test_a_table_too_small_for_int8(tmp_path):
    tiny = {"n_vocab": 12, "n_ctx": 8, "n_embd": 16, "n_layer": 2}
    source, weights = made(**tiny)
    litert.write(source, str(tmp_path))
    found = logits(tmp_path, ids_of(KEYS | tiny))
    assert error(found, truth(weights, ids_of(KEYS | tiny), **tiny)) < 0.05


def test_what_lies_beside_it_says_how_to_feed_it(larger):
    folder, _ = larger
    assert sorted(os.listdir(folder)) == ["config.json", "model.tflite", "tokenizer"]
    written = json.loads((folder / "config.json").read_text())
    assert written.items() >= (KEYS | LARGER).items()
    signature = interpreter(folder).get_signature_list()["serving_default"]
    assert signature == {"inputs": ["ids", "position"], "outputs": ["logits"]}
    assert all(name in written["how_to_use"][0] for name in ("serving_default", "ids", "position", "logits"))


def test_a_model_beyond_the_format_is_refused_before_anything_is_read(tmp_path):
    huge = Source("a huge model", "nowhere", KEYS, {"wte.weight": Tensor((1 << 16, 1 << 16), lambda: 1 / 0)})
    with pytest.raises(UserError, match="2 GiB"):
        litert.write(huge, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "keys, word", [({"activation": "relu"}, "relu"), ({"attention_types": [[["linear"], 3]]}, "linear")]
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, keys, word):
    with pytest.raises(UserError, match=word):
        litert.write(made(**keys)[0], str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
