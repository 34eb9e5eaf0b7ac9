"""The model as Keras sees it: counts, configuration, saving and loading, and parameters of the released sizes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.model.conftest import batch, made, weights_of
from tfgpt import config
from tfgpt.model import GPT
from tfgpt.model.shape import Shape

RELEASED = {"117M": 124_439_808, "345M": 354_823_168, "1.5B": 1_557_611_200, "PrettyBig": 367_419_392}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_sizes(name):
    assert Shape.of(config.load(name, check_files=False)).parameters == RELEASED[name]


def test_keras_knows_every_weight():
    gpt = made(n_vocab=65)
    assert len(gpt.weights) == len(gpt.trainable_weights) == len(gpt.table) == 4 + 12 * gpt.form.n_layer
    assert gpt.count_params() == gpt.form.parameters + (128 - 65) * gpt.form.n_embd
    lines = []
    gpt.summary(print_fn=lambda line, **how: lines.append(line))
    assert f"{gpt.count_params():,}" in "\n".join(lines)


def test_names_and_layout_are_gpt_2s():
    shapes = {name: tuple(v.shape) for name, v in made(n_vocab=65, n_layer=1).table.items()}
    assert shapes["wte.weight"] == (128, 32) and shapes["wpe.weight"] == (24, 32)
    assert shapes["h.0.attn.c_attn.weight"] == (32, 96) and shapes["h.0.mlp.c_proj.weight"] == (128, 32)
    assert list(shapes)[-2:] == ["ln_f.weight", "ln_f.bias"]


def test_an_equal_model_from_its_config():
    gpt = made(n_vocab=65, local=True, fixed_attn_block_size=8, precision="bfloat16")
    other = GPT.from_config(gpt.get_config())
    assert other.form == gpt.form and other.settings == gpt.settings and other.compute_dtype == "bfloat16"


def test_saved_and_loaded_by_keras(tmp_path):
    gpt = made(n_vocab=65, attention_types=[[["global", "local"], 1]], fixed_attn_block_size=8)
    ids, _ = batch(gpt)
    gpt.save(tmp_path / "gpt.keras")
    loaded = keras.models.load_model(tmp_path / "gpt.keras")
    assert isinstance(loaded, GPT) and loaded.settings == gpt.settings
    for name, weight in weights_of(gpt).items():
        np.testing.assert_array_equal(weights_of(loaded)[name], weight)
    np.testing.assert_array_equal(np.array(loaded(ids)), np.array(gpt(ids)))


def test_predict_of_keras_gives_the_logits_of_a_call():
    gpt = made()
    ids, _ = batch(gpt, rows=3)
    np.testing.assert_allclose(gpt.predict(ids, batch_size=2, verbose=0), np.array(gpt(ids)), atol=1e-5)
