"""Samples while training: against the model's own logits, as its weights change."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.reference import Reference, spans
from tfgpt.config import Config
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.language import Language
from tfgpt.generation.options import Options
from tfgpt.tokenizers.char import CharTokenizer

KEYS = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_ctx": 96, "n_vocab": 70, "tokenizer": "char", "data_path": "none"}


@pytest.fixture(scope="module", params=["global", "local"])
def gpt(request):
    from tfgpt.model import GPT

    local = {"local": True, "fixed_attn_block_size": 16, "layer_offset": 5} if request.param == "local" else {}
    gpt = GPT(Config(**KEYS, **local))
    for variable in gpt.table.values():
        variable.assign(variable * 12.0)  # a model with opinions
    return gpt


def test_logits_are_those_of_the_reference_at_every_length(gpt):
    from tfgpt.generation.uncached import Uncached

    weights = {name: np.asarray(variable) for name, variable in gpt.table.items()}
    form = gpt.form
    mask = (lambda layer, length: spans(length, form.block, form.shift(layer))) if gpt.settings.local else None
    reference = Reference(weights, heads=2, n_vocab=70, mask=mask)
    ids = np.random.default_rng(1).integers(0, 70, (1, 96))
    expected = reference.logits(ids)[0]
    engine = Uncached(gpt, slots=2)
    found = engine.prefill_many({1: ids[0, :63], 0: ids[0, :3]})
    np.testing.assert_allclose(found[1], expected[62], rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(found[0], expected[2], rtol=1e-4, atol=2e-3)
    for place in range(63, 96):
        np.testing.assert_allclose(engine.step({1: ids[0, place]})[1], expected[place], rtol=1e-4, atol=2e-3)


def test_greedy_text_is_the_likeliest_token_each_time_and_follows_the_weights(gpt):
    from tfgpt.generation.uncached import Uncached

    alphabet = "".join(chr(97 + number) for number in range(68))
    decoding = Decoding(Uncached(gpt), Language(CharTokenizer(alphabet), 70))

    def written():
        number = decoding.add([3, 5], Options(temperature=0, seed=0, length=12, ignore_eot=True))
        while decoding.busy:
            decoding.step()
        return decoding.result(number).tokens

    def expected():
        ids = [3, 5]
        for _ in range(12):
            logits = np.asarray(gpt(np.array([ids], "int32")))[0, -1, :69]
            ids.append(int(logits.argmax()))
        return ids[2:]

    first = written()
    assert first == expected()
    gpt.table["wpe.weight"].assign(-np.asarray(gpt.table["wpe.weight"]))
    assert written() == expected() != first
