"""Both engines against NumPy in float64, against the uncached network, and against themselves in other company."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib

import numpy as np
import pytest

from tests.model.reference import Reference, log_softmax, spans
from tfgpt.generation import prefilling
from tfgpt.model.shape import Shape

N_CTX, N_VOCAB, BLOCK = 40, 70, 8
KINDS = {
    "dense": ("global", "global"),
    "local": ("local", "local", "local"),
    "mixed": ("global", "local", "global"),
    "sliding": ("sliding", "global", "sliding"),
}


def form_of(kinds, **keys) -> Shape:
    sizes = {"n_vocab": N_VOCAB, "n_ctx": N_CTX, "n_embd": 32, "n_layer": len(kinds), "n_head": 4, "block": BLOCK}
    activation = "gelu" if "sliding" in kinds else "gelu_tanh"
    return Shape(**(sizes | {"attention": kinds, "offset": 3, "window": 5, "activation": activation} | keys))


def weights_of(form, seed=0):
    """All random, padding, biases and LayerNorms too, so that no wrong use of one goes unseen."""
    rng = np.random.default_rng(seed)
    one = {name: "ln_" in name and name.endswith("weight") for name in form.weights}
    return {name: rng.normal(one[name], 0.2, shape).astype("float32") for name, shape in form.weights.items()}


def reference_of(weights, form):
    def mask(layer, length):
        if form.attention[layer] == "local":
            return spans(length, form.block, form.shift(layer))
        reach = form.window if form.attention[layer] == "sliding" else length
        return np.tri(length, dtype=bool) & ~np.tri(length, k=-reach, dtype=bool)

    return Reference(weights, heads=form.n_head, n_vocab=form.n_vocab, mask=mask, activation=form.activation)


def text(length=N_CTX, seed=1):
    return np.random.default_rng(seed).integers(0, N_VOCAB, length).tolist()


@pytest.fixture(scope="module", params=["native", "generation"])
def engines(request):
    """The module of each of the two engines."""
    return importlib.import_module(f"tfgpt.{request.param}.engine")


@pytest.fixture(scope="module")
def built(engines):
    """Engines by (kinds, slots, dtype), each made once."""
    kept = {}

    def build(kinds="mixed", slots=1, dtype="float32"):
        if (kinds, slots, dtype) not in kept:
            form = form_of(KINDS[kinds])
            kept[kinds, slots, dtype] = engines.Engine(weights_of(form), form, slots=slots, dtype=dtype)
        return kept[kinds, slots, dtype]

    return build


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("slots", [1, 3])
def test_every_prompt_and_every_step_to_the_last_position(built, kinds, slots):
    engine, ids = built(kinds, slots), text()
    expected = reference_of(weights_of(engine.form), engine.form).logits(np.array([ids]))[0]
    for start in (1, 7, 8, 13, N_CTX):  # ends of local spans, and around them
        found = engine.prefill(slots - 1, ids[:start])
        np.testing.assert_allclose(found, expected[start - 1], atol=1e-5)
        assert found.shape == (N_VOCAB,) and found.dtype == np.float32
    engine.prefill(slots - 1, ids[:5])  # used before, for a longer text
    for place in range(5, N_CTX):
        found = engine.step({slots - 1: ids[place]})[slots - 1]
        np.testing.assert_allclose(found, expected[place], atol=1e-5)
    assert engine.lengths[slots - 1] == N_CTX
    with pytest.raises(AssertionError):
        engine.step({slots - 1: 0})


@pytest.mark.parametrize("window", [70, 130])
def test_a_window_slides_over_several_chunks_of_the_cache(engines, window):
    form = form_of(("sliding", "sliding"), n_ctx=300, window=window)
    weights, ids = weights_of(form), np.random.default_rng(2).integers(0, N_VOCAB, 300).tolist()
    expected = reference_of(weights, form).logits(np.array([ids]))[0]
    engine = engines.Engine(weights, form, slots=2, dtype="float32")
    for start in (10, 280):
        np.testing.assert_allclose(engine.prefill(0, ids[:start]), expected[start - 1], atol=1e-5)
    engine.prefill(0, ids[:60])
    engine.prefill(1, ids[:3])  # its window begins elsewhere
    for place in range(60, 300):
        found = engine.step({0: ids[place], 1: ids[place - 57]})
        np.testing.assert_allclose(found[0], expected[place], atol=2e-5)
        np.testing.assert_allclose(found[1], expected[place - 57], atol=2e-5)


@pytest.mark.parametrize("kinds", KINDS)
def test_cached_greedy_is_uncached_greedy(built, kinds):
    from tfgpt.config import Config
    from tfgpt.model import GPT

    engine = built(kinds)
    form = engine.form
    blocks = [[[kind], 1] for kind in form.attention]
    keys = {"n_embd": 32, "n_layer": form.n_layer, "n_head": 4, "n_ctx": N_CTX, "n_vocab": N_VOCAB}
    keys |= {"attention_types": blocks, "fixed_attn_block_size": BLOCK, "layer_offset": 3}
    keys |= {"attention_window": form.window, "activation": form.activation}
    gpt = GPT(Config(**keys, tokenizer="char", data_path="x"))
    weights = weights_of(form)
    for name, variable in gpt.table.items():
        variable.assign(weights[name])
    ids = text(3, seed=5)
    cached, logits = list(ids), engine.prefill(0, ids)
    while len(cached) < N_CTX:
        cached.append(int(logits.argmax()))
        if len(cached) < N_CTX:
            logits = engine.step({0: cached[-1]})[0]
    padded = np.array([cached], "int32")  # causal: what stands behind a position does not matter to it
    uncached = np.asarray(gpt(padded))[0].argmax(-1)
    assert cached[3:] == uncached[2:-1].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_slot_is_the_same_to_the_last_bit_alone_and_in_company(built, dtype):
    engine, ids = built("mixed", 3, dtype), text(30, seed=2)

    def alone(slot):
        found = [engine.prefill(slot, ids[:6])]
        return found + [engine.step({slot: token})[slot] for token in ids[6:]]

    expected = alone(0)
    others = {0: text(9, seed=3), 2: text(38, seed=4)}  # one of them comes to its end on the way
    engine.prefill_many({slot: other[:-3] for slot, other in others.items()})
    found = [engine.prefill(1, ids[:6])]
    for place, token in enumerate(ids[6:]):
        given = {1: token}
        if place % 4 == 1:
            given |= {slot: other[-3 + place // 4] for slot, other in others.items() if place // 4 < 3}
        found.append(engine.step(given)[1])
        if place == 15:
            engine.prefill(0, text(N_CTX, seed=6))
    np.testing.assert_array_equal(found, expected)
    # And the others were left alone between their own steps.
    reference = reference_of(weights_of(engine.form), engine.form)
    engine.prefill(2, others[2][:-3])
    for token in others[2][-3:]:
        engine.step({1: 0} if engine.lengths[1] < N_CTX else {0: 0} if engine.lengths[0] < N_CTX else {})
        last = engine.step({2: token})[2]
    expected = reference.logits(np.array([others[2]]))[0, -1]
    np.testing.assert_allclose(last, expected, atol={"float32": 1e-5, "bfloat16": 0.1, "int8": 0.2}[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_prompts_that_are_read_together_are_the_same_to_the_last_bit(built, monkeypatch, dtype):
    monkeypatch.setattr(prefilling, "QUERIES", 8)  # several blocks of queries a prompt
    engine = built("mixed", 3, dtype)
    prompts = {2: text(1, seed=7), 0: text(19, seed=8), 1: text(8, seed=9)}
    alone = {slot: [engine.prefill(slot, ids), engine.step({slot: 3})[slot]] for slot, ids in prompts.items()}
    together = engine.prefill_many(prompts)
    after = engine.step(dict.fromkeys(prompts, 3))
    for slot, (first, second) in alone.items():
        np.testing.assert_array_equal(together[slot], first)
        np.testing.assert_array_equal(after[slot], second)


@pytest.mark.parametrize("slots", [1, 3])
def test_int8_is_what_its_rounded_weights_give(built, slots):
    """The only loss of int8 is that of the weights: with those that it keeps, the reference gives the same."""
    engine, ids = built("mixed", slots, "int8"), text(20)
    error = 1e-4
    rounded = weights_of(engine.form)
    for name, value in rounded.items():
        if name.startswith("wte") or (name.endswith("weight") and value.ndim == 2 and name != "wpe.weight"):
            rows = value if name.startswith("wte") else value.T  # one step size for each output
            step = np.abs(rows).max(1, keepdims=True) / np.float32(127)
            rows = np.rint(rows / step) * step
            rounded[name] = rows if name.startswith("wte") else rows.T
    expected = reference_of(rounded, engine.form).logits(np.array([ids]))[0]
    np.testing.assert_allclose(engine.prefill(0, ids[:8]), expected[7], atol=error)
    for place in range(8, 20):
        np.testing.assert_allclose(engine.step({0: ids[place]})[0], expected[place], atol=error)
    exact = reference_of(weights_of(engine.form), engine.form).logits(np.array([ids]))[0]
    assert 1e-3 < np.abs(expected - exact).max() < 0.2, "and that loss is small, but not nothing"


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.05), ("int8", 0.1)])
def test_scores_are_log_probabilities(engines, built, dtype, error, monkeypatch):
    monkeypatch.setattr(engines, "VOCABULARY", 32, raising=False)  # the vocabulary in three parts
    engine, ids = built("mixed", 1, dtype), text()
    expected = log_softmax(reference_of(weights_of(engine.form), engine.form).logits(np.array([ids]))[0])
    before = engine.prefill(0, ids[:4]), engine.lengths[0]
    np.testing.assert_allclose(engine.score(ids), expected[np.arange(N_CTX - 1), ids[1:]], atol=error)
    assert engine.score(ids[:1]).shape == (0,)
    # Nothing that a slot holds was touched.
    after = engine.step({0: ids[4]})[0]
    np.testing.assert_allclose(after, engine.prefill(0, ids[:5]), atol=error)
    assert before[1] == 4


def test_the_same_as_transformers(engines):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 3}
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=130, n_positions=200, initializer_range=0.3, **sizes)
    ).eval()
    form = Shape(n_vocab=130, n_ctx=200, attention=("global",) * 2, multiple=1, **sizes)
    weights = {name: value.numpy() for name, value in peer.transformer.state_dict().items() if name in form.weights}
    ids = np.random.default_rng(0).integers(0, 130, 200)
    with torch.no_grad():
        expected = peer(torch.tensor(ids[None])).logits[0].numpy()
    engine = engines.Engine(weights, form, slots=2)
    np.testing.assert_allclose(engine.prefill(1, ids[:120].tolist()), expected[119], atol=2e-4)
    for place in range(120, 200):  # across the border of two chunks of the cache
        found = engine.step({1: int(ids[place])})[1]
        np.testing.assert_allclose(found, expected[place], atol=2e-4)


def test_weights_are_taken_one_by_one(engines):
    form = form_of(KINDS["dense"])
    kept, given = weights_of(form), weights_of(form)
    engine = engines.Engine(given, form, dtype="int8", consume=True)
    assert given == {}
    again = engines.Engine(kept, form, dtype="int8")
    assert set(kept) == set(form.weights)
    np.testing.assert_array_equal(engine.prefill(0, [1, 2]), again.prefill(0, [1, 2]))
    assert engine.bytes_per_token < 0.35 * sum(value.nbytes for value in kept.values())
