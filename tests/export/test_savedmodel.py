"""SavedModels in a process that has TensorFlow alone, against tfgpt's own engine and the NumPy reference."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from tests.model import reference
from tests.model.conftest import made
from tests.model.reference import Reference, spans
from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.export import savedmodel
from tfgpt.export.graph_text import draw
from tfgpt.generation import sampling
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.language import Language
from tfgpt.generation.options import Options
from tfgpt.weights.source import Source, Tensor, checked

N_CTX, N_VOCAB = 24, 270  # 257 ids of bytes, and some that stand for nothing
SHAPES = {
    "global": {},
    "local": {"local": True, "fixed_attn_block_size": 6, "layer_offset": 4},
    "mixed": {"attention_types": [[["local", "global"], 1]], "fixed_attn_block_size": 8, "layer_offset": 3},
    "sliding": {"attention_types": [[["sliding", "global"], 1]], "attention_window": 5, "activation": "gelu"},
}
PROMPTS = ["To be", "", "x", "é😀 longer than the context of 24 tokens, which is cut", "\0\n"]


def source_of(weights, *, tokenizer=None, **keys) -> Source:
    """A model with these weights (and n_vocab rows of wte), as a reader of checkpoints gives it."""
    weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    keys = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_ctx": N_CTX, "n_vocab": N_VOCAB} | keys
    weights["wte.weight"] = weights["wte.weight"][: keys["n_vocab"]]
    tensors = {name: Tensor(value.shape, lambda value=value: value) for name, value in weights.items()}
    return checked(Source("a test", "here", keys, tensors, tokenizer or tokenizers.from_name("byte")))


def weights_of(seed=0, **keys):
    return {name: np.asarray(value) for name, value in made(seed, n_vocab=N_VOCAB, **keys).table.items()}


def saved(source, folder):
    """Its signatures, with Python values in and NumPy's out."""
    folder.mkdir()
    savedmodel.write(source, str(folder))
    loaded = tf.saved_model.load(str(folder))
    types = {"prompt": tf.string, "text": tf.string, "temperature": tf.float32, "top_p": tf.float32, "seed": tf.int64}

    def call(signature, **values):
        if signature == "generate":
            values = {"length": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0} | values
        tensors = {name: tf.constant(value, types.get(name, tf.int32)) for name, value in values.items()}
        return {name: found.numpy() for name, found in loaded.signatures[signature](**tensors).items()}

    return call


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    return saved(source_of(weights_of()), tmp_path_factory.mktemp("global") / "1")


def rows_of(found) -> list[list[int]]:
    return [[token for token in row if token >= 0] for row in found["tokens"].tolist()]


def reference_of(weights, keys, monkeypatch) -> Reference:
    """The NumPy model; sliding attention and the exact GELU as their definitions say."""
    if keys.get("activation") == "gelu":
        exact = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
        monkeypatch.setattr(reference, "gelu", exact)
    kinds = [kind for names, times in keys.get("attention_types", []) for kind in names * times]
    kinds = kinds or ["local" if keys.get("local") else "global"] * 2

    def mask(layer, length):
        seen = np.tril(np.ones((length, length), bool))
        if kinds[layer] == "sliding":
            seen &= ~np.tril(np.ones((length, length), bool), -keys["attention_window"])
        if kinds[layer] == "local":
            size = keys["fixed_attn_block_size"]
            seen = spans(length, size, layer * keys["layer_offset"] % size)
        return seen

    return Reference(weights, heads=4, n_vocab=N_VOCAB, mask=mask)


def by_rule(model, ids, length) -> list[int]:
    """Greedy ids by tfgpt's rule of the window: a long prompt's end with room for what comes, a full context's last half."""
    ids, new = list(ids) or [256], []
    held = ids if len(ids) <= N_CTX else ids[-max(N_CTX - (length - 1), N_CTX // 2) :]
    while len(new) < length and 256 not in new:
        new.append(int(model.logits(np.array([held]))[0, -1, :257].argmax()))
        held = (ids + new)[-(N_CTX // 2) :] if len(held) == N_CTX else [*held, new[-1]]
    return new


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_greedy_text_are_the_references(name, tmp_path, monkeypatch):
    keys = SHAPES[name]
    weights = weights_of(**({} if name == "sliding" else keys))
    call = saved(source_of(weights, **keys), tmp_path / "1")
    model = reference_of(weights, keys, monkeypatch)
    ids = np.random.default_rng(1).integers(0, N_VOCAB, (3, N_CTX)).astype("int32")
    found = call("logits", ids=ids)["logits"]
    np.testing.assert_allclose(found, model.logits(ids), rtol=1e-4, atol=2e-3)
    ids[1, 9:] = -1  # a short text beside long ones
    np.testing.assert_allclose(call("logits", ids=ids)["logits"][1, :9], found[1, :9], rtol=1e-4, atol=2e-3)
    for length in (1, 10, 60):
        tokens = rows_of(call("generate", prompt=PROMPTS, length=length, temperature=0.0))
        assert tokens == [by_rule(model, prompt.encode(), length) for prompt in PROMPTS]


@pytest.mark.slow
def test_a_process_without_tfgpt_writes_the_same_greedy_text(tmp_path):
    from tfgpt.generation.uncached import Uncached

    gpt = made(3, n_vocab=N_VOCAB, **SHAPES["mixed"])
    (tmp_path / "1").mkdir()
    savedmodel.write(source_of(gpt.table, **SHAPES["mixed"]), str(tmp_path / "1"))
    decoding = Decoding(Uncached(gpt), Language(tokenizers.from_name("byte"), N_VOCAB))
    numbers = [decoding.add(prompt, Options(temperature=0, seed=0, length=50)) for prompt in PROMPTS]
    while decoding.busy:
        decoding.step()
    expected = [decoding.result(number) for number in numbers]
    found = elsewhere(tmp_path, PROMPTS, length=50)
    assert [[t for t in row if t >= 0] for row in found["tokens"]] == [one.tokens for one in expected]
    assert found["text"] == [one.text for one in expected]
    # What TF Serving's loader does: a graph and a session, no Python objects.
    assert found["session"] == found["default"]


ALONE = """
import json, os, sys
for name in ("tfgpt", "tiktoken", "regex", "tokenizers", "tensorflow_text"):
    sys.modules[name] = None
try:
    import tfgpt
except ImportError:
    pass
else:
    raise SystemExit("tfgpt is here")
import tensorflow as tf
ask = json.load(sys.stdin)
signatures = tf.saved_model.load(ask["folder"]).signatures
prompt = tf.constant(ask["prompts"], tf.string)
found = signatures["generate"](
    prompt=prompt, length=tf.constant(ask["length"]), temperature=tf.constant(0.0), top_k=tf.constant(0),
    top_p=tf.constant(1.0), seed=tf.constant(0, tf.int64),
)
answer = {"tokens": found["tokens"].numpy().tolist(), "text": [one.decode() for one in found["text"].numpy()]}
answer["default"] = [one.decode() for one in signatures["serving_default"](prompt=prompt)["text"].numpy()]
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], ask["folder"])
    signature = meta.signature_def["serving_default"]
    text = session.run(signature.outputs["text"].name, {signature.inputs["prompt"].name: ask["prompts"]})
answer["session"] = [one.decode() for one in text]
print(json.dumps(answer))
"""


def elsewhere(folder, prompts, *, length):
    """What a Python with TensorFlow and no tfgpt makes of these prompts, greedily and by the defaults."""
    ask = json.dumps({"folder": str(folder / "1"), "prompts": prompts, "length": length})
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE], input=ask, capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RULES = [
    {}, {"temperature": 0.5}, {"temperature": 3.0, "top_k": 3}, {"top_p": 0.6}, {"top_p": 0.95, "top_k": 6}, {"top_k": 1},
    {"top_p": 1e-6}, {"temperature": 2.0, "top_p": 0.5, "top_k": 100},
]  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_follow_the_distribution(rules, ties):
    logits = np.random.default_rng(2).normal(0, 1.5, 12).astype("float32")
    logits = np.round(logits) if ties else logits
    ids, chances = sampling.distribution(logits, Options(**rules))
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | rules
    seeds = tf.stack([tf.range(50, dtype=tf.int64)[:, None] + tf.zeros([1, 60], tf.int64)] * 2, -1)
    # Seed and position change in turn, as they do in use.
    seeds = tf.reshape(seeds + tf.stack([0, 1])[None, None].numpy() * np.arange(60)[None, :, None], (-1, 2))
    numbers = [tf.constant(full["temperature"]), tf.constant(full["top_k"]), tf.constant(full["top_p"])]
    draws = tf.function(lambda: tf.map_fn(lambda s: draw(tf.constant(logits), *numbers, s), seeds, tf.int32))()
    counts = np.bincount(draws.numpy(), minlength=12)
    assert counts.sum() == 3000 and set(np.flatnonzero(counts)) <= set(ids.tolist())
    expected = 3000 * chances
    score, freedom = np.sum((counts[ids] - expected) ** 2 / expected), len(ids) - 1
    assert score <= freedom + 5 * math.sqrt(2 * freedom)


def test_every_token_is_one_that_the_rules_leave(call, monkeypatch):
    model = reference_of(weights_of(), {}, monkeypatch)
    found = call("generate", prompt=["ab"], length=20, top_k=3, temperature=5.0, seed=4)
    held = list(b"ab")
    for token in rows_of(found)[0]:
        row = model.logits(np.array([held]))[0, -1, :257]
        assert token in np.argsort(row)[-3:]
        held.append(token)


def test_the_seed_alone_decides_whatever_stands_beside(call):
    def texts(prompts, **values):
        return call("generate", prompt=prompts, length=30, temperature=2.0, **values)["text"].tolist()

    together = texts(PROMPTS, seed=7)
    assert together == texts(PROMPTS, seed=7)
    assert together == [texts([prompt], seed=7)[0] for prompt in PROMPTS] == texts(PROMPTS[::-1], seed=7)[::-1]
    assert len({texts(["To be"], seed=seed)[0] for seed in range(20)}) == 20
    assert texts(["To be"], seed=7 + 2**32) != texts(["To be"], seed=7)


def test_the_defaults(call):
    values = {**savedmodel.DEFAULTS, "prompt": PROMPTS}
    assert call("serving_default", prompt=PROMPTS)["text"].tolist() == call("generate", **values)["text"].tolist()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0}, {"temperature": math.nan}, {"temperature": math.inf}, {"temperature": 1e-40},
        {"top_k": -5}, {"top_k": 2**31 - 1}, {"top_p": 0.0}, {"top_p": -3.0}, {"top_p": 7.0}, {"top_p": math.nan},
        {"seed": -1}, {"seed": 2**63 - 1}, {"length": 0}, {"length": -2**31},
    ],
)  # fmt: skip
def test_options_out_of_range_still_give_text(call, values):
    length = max(0, values.get("length", 8))
    for row in rows_of(call("generate", prompt=["a", ""], **values)):
        assert len(row) == length or (row[-1] == 256 and len(row) < length)
        assert all(0 <= token < 257 for token in row)
    if "temperature" in values and not values["temperature"] > 1e-30:
        greedy = call("generate", prompt=["a", ""], temperature=0.0)
        assert rows_of(call("generate", prompt=["a", ""], **values)) == rows_of(greedy)


def told(token=None):
    """Weights of a model that says one token always, or any id with the same chance."""
    weights = weights_of() | {"ln_f.weight": np.zeros(32), "ln_f.bias": np.zeros(32)}
    if token is not None:
        weights["ln_f.bias"] = 50 * weights["wte.weight"][token]
    return weights


def test_an_end_of_text_ends_the_text(tmp_path):
    call = saved(source_of(told(256)), tmp_path / "1")
    found = call("generate", prompt=["a", ""], length=9)
    assert rows_of(found) == [[256], [256]] and found["text"].tolist() == [b"", b""]


def test_ids_without_a_token_are_never_drawn(tmp_path):
    call = saved(source_of(told(N_VOCAB - 1)), tmp_path / "1")
    assert max(map(max, rows_of(call("generate", prompt=["a"], length=9, temperature=0.0)))) < 257
    call = saved(source_of(told()), tmp_path / "2")
    tokens = [t for seed in range(20) for t in rows_of(call("generate", prompt=["a"], length=50, seed=seed))[0]]
    assert max(tokens) <= 256 and len(set(tokens)) > 150


def test_texts_go_through_bytes_that_are_not_utf8(call):
    found = call("encode", text=[b"a\xff", "é".encode(), b""])["ids"].tolist()
    assert found == [[97, 239, 191, 189], [195, 169, -1, -1], [-1] * 4]
    for text in call("generate", prompt=[b"\xff\xfe", b"\xc3"], length=40, temperature=9.0)["text"].tolist():
        text.decode("utf-8")


def test_nothing_at_all(call):
    assert call("generate", prompt=[])["text"].shape == (0,)
    assert call("encode", text=[])["ids"].shape[0] == 0
    assert call("logits", ids=np.zeros((0, 3)))["logits"].shape == (0, 3, N_VOCAB)
    assert call("logits", ids=np.zeros((2, 0)))["logits"].shape == (2, 0, N_VOCAB)


def test_ids_that_are_not_there_are_an_error(call):
    with pytest.raises(tf.errors.InvalidArgumentError, match="not below 270"):
        call("logits", ids=[[1, 270]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 24 columns"):
        call("logits", ids=np.zeros((1, 25)))


def test_weights_that_are_not_numbers_are_an_error(tmp_path):
    call = saved(source_of(weights_of() | {"ln_f.bias": np.full(32, np.nan)}), tmp_path / "1")
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        call("generate", prompt=["a"])


def test_byte_pairs_and_text_longer_than_the_context(tmp_path):
    tokenizer = tokenizers.train_bpe(["the cat sat on the mat, and that was that. " * 9], 265)
    call = saved(source_of(weights_of(), tokenizer=tokenizer), tmp_path / "1")
    text = "that cat's mat  sat\n\non 42 mats! " * 9
    assert call("encode", text=[text])["ids"].tolist() == [tokenizer.encode(text)]
    found = call("generate", prompt=[text], length=70)
    ids = rows_of(found)[0]
    assert len(ids) == 70 or ids[-1] == tokenizer.eot
    assert found["text"][0].decode() == tokenizer.decode([token for token in ids if token != tokenizer.eot])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"activation": "relu"}, '"relu"'),
        ({"attention_types": [[["linear"], 2]]}, '"linear"'),
        ({"attention_types": [[["global"], 3]]}, "covers 3 blocks"),
        ({"attention_types": [[["sliding"], 2]]}, "attention_window"),
    ],
)
def test_what_cannot_be_a_graph(keys, words, tmp_path):
    with pytest.raises(UserError, match=words):
        savedmodel.write(source_of(weights_of(), **keys), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer(tmp_path):
    source = source_of(weights_of())
    with pytest.raises(UserError, match="no tokenizer"):
        savedmodel.write(Source(source.kind, "here", source.keys, source.tensors), str(tmp_path))
