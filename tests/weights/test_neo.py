"""GPT-Neo, against transformers and a forward pass in NumPy that follows the paper and our conventions."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.weights import huggingface
from tfgpt.weights.source import Tensor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

WINDOW = 3
IDS = [5, 7, 90, 0, 42, 42, 8, 3, 11, 5, 6, 2]


def model(width=32, heads=2, kinds=(("global", "local"), 2), window=WINDOW, activation="gelu_new"):
    """Heads of 16 as a rule: a power of 4, so that no factor rounds."""
    names, times = kinds
    torch.manual_seed(0)
    made = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(
            vocab_size=91, max_position_embeddings=12, hidden_size=width, num_layers=len(names) * times, num_heads=heads,
            attention_types=[[list(names), times]], window_size=window, activation_function=activation,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for value in made.parameters():
            value += 0.1 * torch.randn_like(value)
    return made


def logits(made):
    with torch.no_grad():
        return made(torch.tensor([IDS])).logits[0].numpy()


def forward(source) -> np.ndarray:
    """Logits [T, V] in float64: scores divided by the root of a head's width, "sliding" sees itself and window - 1 before."""
    w = {name: tensor.read().astype(np.float64) for name, tensor in source.tensors.items()}
    keys = source.keys
    kinds = [
        kind for names, times in keys.get("attention_types", [[["global"], keys["n_layer"]]]) for kind in names * times
    ]
    size = keys["n_embd"] // keys["n_head"]
    behind = np.arange(len(IDS))[:, None] - np.arange(len(IDS))
    erf = np.vectorize(math.erf)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x):
        if keys.get("activation") == "gelu":
            return x * (1 + erf(x / math.sqrt(2))) / 2
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    x = w["wte.weight"][IDS] + w["wpe.weight"][: len(IDS)]
    for i, kind in enumerate(kinds):
        seen = (behind >= 0) & (behind < (keys["attention_window"] if kind == "sliding" else len(IDS)))
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").reshape(len(IDS), 3, keys["n_head"], size)
        query, key, value = qkv.transpose(1, 2, 0, 3)
        scores = np.where(seen, query @ key.transpose(0, 2, 1) / math.sqrt(size), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        x = x + linear(mixed.transpose(1, 0, 2).reshape(len(IDS), -1), f"h.{i}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def change(folder, **facts):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.fixture(scope="module")
def neo():
    return model()


@pytest.fixture(scope="module")
def original(neo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("neo")
    neo.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def test_every_tensor(neo, original):
    assert huggingface.recognises(original)
    source = huggingface.read(original)
    assert source.keys == {
        "n_layer": 4, "n_head": 2, "n_embd": 32, "n_ctx": 12, "n_vocab": 91,
        "attention_types": [[["global", "sliding"], 2]], "attention_window": WINDOW,
    }  # fmt: skip
    assert "GPT-Neo" in source.kind and "query" in source.notes[0] and "rounded" not in source.notes[0]
    state = {name.removeprefix("transformer."): value.numpy() for name, value in neo.state_dict().items()}
    for i in range(4):
        own = f"h.{i}.attn.attention."
        query, key, value = (state[f"{own}{part}_proj.weight"].T for part in "qkv")
        joined = source.tensors[f"h.{i}.attn.c_attn.weight"].read()
        assert joined.dtype == np.float32 and np.array_equal(joined, np.hstack([4 * query, key, value]))
        assert not source.tensors[f"h.{i}.attn.c_attn.bias"].read().any()
        for ours, theirs in (("attn.c_proj", "attn.attention.out_proj"), ("mlp.c_fc",) * 2, ("mlp.c_proj",) * 2):
            assert np.array_equal(source.tensors[f"h.{i}.{ours}.weight"].read(), state[f"h.{i}.{theirs}.weight"].T)
            assert np.array_equal(source.tensors[f"h.{i}.{ours}.bias"].read(), state[f"h.{i}.{theirs}.bias"])
    for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", "h.3.ln_1.bias", "h.0.ln_2.weight"):
        assert np.array_equal(source.tensors[name].read(), state[name])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"activation": "gelu"},
        {"kinds": (("local",), 2), "window": 1},
        {"kinds": (("local", "local", "global"), 1), "window": 99},
        {"kinds": (("global",), 2)},
        {"width": 24, "heads": 3},
    ],
)
def test_it_computes_the_same(more, tmp_path):
    made = model(**more)
    made.save_pretrained(tmp_path / "a")
    source = huggingface.read(tmp_path / "a")
    assert abs(forward(source) - logits(made)).max() <= 1e-4 < logits(made).std()
    (tmp_path / "b").mkdir()
    huggingface.write(source, tmp_path / "b")
    again, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    assert abs(logits(again.eval()) - logits(made)).max() <= 1e-5
    # What sees everything needs no GPT-Neo.
    name = "GPT2LMHeadModel" if "kinds" in more and more["kinds"][0] == ("global",) else "GPTNeoForCausalLM"
    assert type(again).__name__ == name
    assert ("rounded" in source.notes[0]) == ("width" in more)


def test_the_window_counts():
    """The test above could not fail if a window of 3 made no difference."""
    assert abs(logits(model()) - logits(model(window=4))).max() > 0.01


def test_written_back_bit_by_bit(neo, original, tmp_path):
    source = replace(huggingface.read(original), tokenizer=tokenizers.train_char(["banana"]))
    huggingface.write(source, tmp_path)
    before, after = (safetensors.load_file(place / "model.safetensors") for place in (original, tmp_path))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    ours, theirs = (json.loads((place / "config.json").read_text()) for place in (tmp_path, original))
    same = set(ours) & set(theirs) - {"bos_token_id", "eos_token_id"}
    assert {"attention_types", "attention_layers", "window_size", "num_heads"} <= same
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_a_bias_has_no_place_in_a_neo(original, tmp_path):
    source = huggingface.read(original)
    bias = np.zeros(96, np.float32)
    bias[95] = 1e-9
    tensors = {**source.tensors, "h.2.attn.c_attn.bias": Tensor((96,), lambda: bias)}
    with pytest.raises(UserError, match=r"h\.2\.attn\.c_attn\.bias is not zero"):
        huggingface.write(replace(source, tensors=tensors), tmp_path)
    assert not list(tmp_path.iterdir())


def test_old_masks_are_passed_over(neo, folder):
    """The files of 2021 hold masks beside the weights."""
    (folder / "model.safetensors").unlink()
    state = dict(neo.state_dict())
    for i in range(4):
        state[f"transformer.h.{i}.attn.attention.bias"] = torch.ones(1, 1, 12, 12, dtype=torch.bool)
        state[f"transformer.h.{i}.attn.attention.masked_bias"] = torch.tensor(-1e9)
    torch.save(state, folder / "pytorch_model.bin")
    assert abs(forward(huggingface.read(folder)) - logits(neo)).max() <= 1e-4


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"num_layers": 5}, '"num_layers" is 5, but the file has tensors of 4'),
        ({"attention_types": [[["global", "local"], 3]]}, "covers 6 blocks"),
        ({"attention_types": [[["global", "local"], 10**12]]}, "covers"),
        ({"attention_types": [[["global", "sideways"], 2]]}, "attention_types"),
        ({"attention_types": [[["global", ["local"]], 2]]}, "attention_types"),
        ({"attention_types": ["global"] * 4}, "attention_types"),
        ({"attention_types": 4}, "attention_types"),
        ({"window_size": 0}, "window_size"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"hidden_size": 64}, r"q_proj.weight is \[32, 32\], needed \[64, 64\]"),
        ({"activation_function": "silu"}, "silu"),
        ({"num_heads": 5}, "5 heads do not divide"),
    ],
)
def test_configs_that_do_not_fit(folder, facts, said):
    change(folder, **facts)
    with pytest.raises(UserError, match=said):
        huggingface.read(folder)


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("attn.attention.k_proj.weight", None, "k_proj.weight is missing"),
        ("attn.attention.k_proj.weight", np.ones((32, 64), np.float32), "k_proj.weight is"),
        ("attn.attention.q_proj.bias", np.ones(32, np.float32), "q_proj.bias is not part"),
        ("attn.c_proj.weight", np.ones((32, 32), np.float32), "c_proj.weight is not part"),
        ("mlp.c_fc.weight", np.ones((32, 128), np.float32), r"c_fc.weight is \[128, 32\], needed \[32, 128\]"),
    ],
)
def test_tensors_that_do_not_fit(folder, name, value, said):
    path = folder / "model.safetensors"
    content = safetensors.load_file(path)
    content.pop(f"transformer.h.1.{name}", None)
    content |= {f"transformer.h.1.{name}": value} if value is not None else {}
    safetensors.save_file(content, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        huggingface.read(folder)
