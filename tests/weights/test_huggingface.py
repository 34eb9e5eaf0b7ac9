"""GPT-2 in Hugging Face's folders, against transformers, safetensors, torch and tiktoken themselves."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.weights import huggingface
from tfgpt.weights.source import Source, Tensor, expected

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 12, "vocab_size": 300}
TEXTS = ["Hello world", " two  spaces\n\n", "naïve café 😀", "don't 123 ...", ""]
IDS = [[1, 7, 299, 0, 42, 42, 8, 3, 100, 5, 6, 2]]


def model(**more):
    torch.manual_seed(0)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE, **more)).eval()
    with torch.no_grad():
        for value in made.parameters():
            value += 0.1 * torch.randn_like(value)
    return made


def logits(made):
    with torch.no_grad():
        return made(torch.tensor(IDS)).logits.numpy()


def loaded(folder):
    made, said = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    return made.eval()


def arrays(source) -> dict:
    return {name: tensor.read() for name, tensor in source.tensors.items()}


def wanted(made) -> dict:
    """transformers' GPT-2 has our names and layout, but for the prefix and the head."""
    return {
        name.removeprefix("transformer."): value.numpy()
        for name, value in made.state_dict().items()
        if name != "lm_head.weight"
    }


def equal(found, made):
    known = wanted(made)
    assert found.keys() == known.keys()
    for name, array in found.items():
        assert array.dtype == np.float32 and array.tobytes() == known[name].tobytes(), name


def change(folder, **facts):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | facts
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def rewrite(folder, edit):
    """model.safetensors, changed by `edit`, which gets its dictionary of arrays."""
    path = folder / "model.safetensors"
    content = safetensors.load_file(path)
    edit(content)
    safetensors.save_file(content, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def gpt2():
    return model()


@pytest.fixture(scope="module")
def original(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture(scope="module")
def trained():
    return tokenizers.train_bpe(["the cat sat on the mat, the rat sat on the cat; don't 123 Hello world"] * 9, 287)


def test_safetensors(gpt2, original):
    assert huggingface.recognises(original)
    source = huggingface.read(original)
    assert source.keys == {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_ctx": 12, "n_vocab": 300}
    assert source.tokenizer is None and source.notes == ("no tokenizer lies beside it",)
    equal(arrays(source), gpt2)


def test_shards(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and huggingface.recognises(tmp_path)
    equal(arrays(huggingface.read(tmp_path)), gpt2)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(gpt2, folder, prefix, zipped):
    (folder / "model.safetensors").unlink()
    content = {name.replace("transformer.", prefix): value for name, value in gpt2.state_dict().items()}
    content[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 12, 12, dtype=torch.uint8)
    content[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert huggingface.recognises(folder)
    equal(arrays(huggingface.read(folder)), gpt2)


def test_shards_of_torch_save(gpt2, folder):
    (folder / "model.safetensors").unlink()
    names = list(gpt2.state_dict())
    parts = {"pytorch_model-1.bin": names[:9], "pytorch_model-2.bin": names[9:]}
    for file, own in parts.items():
        torch.save({name: gpt2.state_dict()[name].clone() for name in own}, folder / file)
    index = {name: file for file, own in parts.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    equal(arrays(huggingface.read(folder)), gpt2)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("safe", [True, False])
def test_other_floats(folder, kind, safe):
    halves = model().to(getattr(torch, kind))
    if safe:
        halves.save_pretrained(folder)
    else:
        (folder / "model.safetensors").unlink()
        torch.save(halves.state_dict(), folder / "pytorch_model.bin")
    source = huggingface.read(folder)
    assert any(kind in note for note in source.notes)
    equal(arrays(source), halves.float())


def test_a_header_of_odd_length(gpt2, folder):
    """Files of before 2023 have no padding behind the header, and all their numbers lie at odd places."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = data[8 : 8 + length].rstrip() + b" "
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    found = arrays(huggingface.read(folder))
    assert all(array.flags.aligned for array in found.values())
    equal(found, gpt2)


@pytest.mark.parametrize("ours, theirs", [(None, "gelu_new"), (None, "gelu_fast"), ("gelu", "gelu")])
def test_activations(folder, ours, theirs):
    change(folder, activation_function=theirs)
    assert huggingface.read(folder).keys.get("activation") == ours


@pytest.mark.parametrize(
    "facts", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"activation_function": "gelu"}]
)
def test_written_again_it_computes_the_same(facts, tmp_path):
    """Other scales of scores become part of the query weights; transformers itself says whether that is the same."""
    first = model(**facts)
    first.save_pretrained(tmp_path / "a")
    source = huggingface.read(tmp_path / "a")
    (tmp_path / "b").mkdir()
    huggingface.write(source, tmp_path / "b")
    again = loaded(tmp_path / "b")
    assert abs(logits(again) - logits(first)).max() < 1e-5 < logits(first).std()
    if "activation_function" in facts:
        assert abs(logits(first) - logits(model())).max() > 1e-5
        equal(wanted(again), first)
    else:
        assert again.config.scale_attn_weights and not again.config.scale_attn_by_inverse_layer_idx
        assert "query" in source.notes[0]


def test_written_weights_are_the_same(gpt2, original, tmp_path):
    huggingface.write(huggingface.read(original), tmp_path)
    again = loaded(tmp_path)
    equal(wanted(again), gpt2)
    assert isinstance(again, transformers.GPT2LMHeadModel)
    assert abs(logits(again) - logits(gpt2)).max() <= 1e-5
    ours, theirs = (
        json.loads((tmp_path / "config.json").read_text()),
        json.loads((original / "config.json").read_text()),
    )
    assert {key: ours[key] for key in SHAPE} == SHAPE
    same = set(ours) & set(theirs) - {"bos_token_id", "eos_token_id"}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    equal(arrays(huggingface.read(tmp_path)), gpt2)


def test_writing_holds_few_tensors_at_a_time(tmp_path):
    keys = {"n_layer": 9, "n_head": 2, "n_embd": 128, "n_ctx": 8, "n_vocab": 8}
    shapes = expected(keys)
    source = Source(
        "test", "-", keys, {name: Tensor(s, lambda s=s: np.ones(s, np.float32)) for name, s in shapes.items()}
    )
    tracemalloc.start()
    huggingface.write(source, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = 4 * 4 * 128 * 128
    assert (tmp_path / "model.safetensors").stat().st_size > 20 * largest and peak < 4 * largest


def test_other_attention_is_no_gpt2(original, tmp_path):
    source = huggingface.read(original)
    for more in ({"attention_types": [[["local"], 2]]}, {"local": True}, {"activation": "relu"}):
        with pytest.raises(UserError, match="global|relu"):
            huggingface.write(replace(source, keys={**source.keys, **more}), tmp_path)
    assert not list(tmp_path.iterdir())


def same_ids(tokenizer, folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.encode(text) for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert [theirs.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS
    assert theirs.eos_token_id == tokenizer.eot and len(theirs) == tokenizer.n_vocab
    return theirs


def test_a_tokenizer_goes_there_and_back(original, trained, tmp_path):
    huggingface.write(replace(huggingface.read(original), tokenizer=trained), tmp_path)
    same_ids(trained, tmp_path)
    assert loaded(tmp_path).config.eos_token_id == trained.eot
    source = huggingface.read(tmp_path)
    assert source.notes == () and source.tokenizer.fingerprint == trained.fingerprint
    (tmp_path / "tokenizer.json").unlink()
    same_ids(trained, tmp_path)


def test_a_tokenizer_of_transformers_own_writing(folder, trained, tmp_path):
    """transformers 5 writes a tokenizer.json alone, and merges in pairs; older versions wrote them as text."""
    trained.save(tmp_path / "own")
    (tmp_path / "own" / "encoder.json").rename(tmp_path / "own" / "vocab.json")
    (tmp_path / "own" / "vocab.bpe").rename(tmp_path / "own" / "merges.txt")
    transformers.GPT2Tokenizer.from_pretrained(tmp_path / "own").save_pretrained(folder)
    assert not (folder / "vocab.json").exists()
    assert huggingface.read(folder).tokenizer.fingerprint == trained.fingerprint
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    assert huggingface.read(folder).tokenizer.fingerprint == trained.fingerprint


def test_gpt2s_own_tokenizer(original, gpt2_encoder, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    from tfgpt.tokenizers.bpe import SPLIT

    ranks = data_gym_to_mergeable_bpe_ranks(str(gpt2_encoder / "vocab.bpe"), str(gpt2_encoder / "encoder.json"))
    engine = tiktoken.Encoding("test", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    huggingface.write(replace(huggingface.read(original), tokenizer=tokenizers.load(gpt2_encoder)), tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text)["input_ids"] for text in TEXTS] == [engine.encode(text) for text in TEXTS]
    source = huggingface.read(tmp_path)
    # The model of this test has fewer rows than the tokenizer has ids.
    assert source.tokenizer is None and "50257 ids" in source.notes[0]


def test_letters_stay_with_tfgpt(original, tmp_path):
    letters = tokenizers.train_char(["banana"])
    huggingface.write(replace(huggingface.read(original), tokenizer=letters), tmp_path)
    loaded(tmp_path)
    assert huggingface.read(tmp_path).tokenizer.fingerprint == letters.fingerprint


OTHERS = {
    "not of byte pairs": lambda content: content["model"].update(type="Unigram"),
    "pre_tokenizer": lambda content: content.update(pre_tokenizer={"type": "Digits"}),
    "add_prefix_space": lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
    "normalizer": lambda content: content.update(normalizer={"type": "Lowercase"}),
    "added token '    '": lambda content: content["added_tokens"].append({"id": 287, "content": "    "}),
    "end_of_word_suffix": lambda content: content["model"].update(end_of_word_suffix="</w>"),
    "cannot be read": lambda content: content["model"].pop("merges"),
    "a merge is two tokens": lambda content: content["model"]["merges"].append("  "),
}


@pytest.mark.parametrize("said", OTHERS)
def test_other_tokenizers_are_named_and_left(original, trained, tmp_path, said):
    huggingface.write(replace(huggingface.read(original), tokenizer=trained), tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    OTHERS[said](content)
    path.write_text(json.dumps(content))
    source = huggingface.read(tmp_path)
    assert source.tokenizer is None and "tokenizer.json" in source.notes[0] and said in source.notes[0]
    path.unlink()
    assert huggingface.read(tmp_path).tokenizer.fingerprint == trained.fingerprint


@pytest.mark.parametrize("settings", [{"add_prefix_space": True}, {"tokenizer_class": "RobertaTokenizer"}])
def test_settings_that_change_the_ids(original, trained, tmp_path, settings):
    huggingface.write(replace(huggingface.read(original), tokenizer=trained), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    source = huggingface.read(tmp_path)
    assert source.tokenizer is None and "vocab.json" in source.notes[0]


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"n_layer": 3}, '"n_layer" is 3, but the file has tensors of 2'), ({"n_layer": 10**9}, "tensors of 2 blocks"),
        ({"n_layer": 10**12}, "n_layer"), ({"n_layer": True}, "n_layer"), ({"n_head": "absent"}, "n_head"),
        ({"n_head": 3}, "3 heads do not divide"), ({"n_embd": 32}, r"wte.weight is \[300, 16\], needed \[300, 32\]"),
        ({"vocab_size": 301}, "wte.weight"), ({"n_positions": 1024}, "wpe.weight"), ({"n_inner": 17}, "n_inner"),
        ({"activation_function": "relu"}, "relu"), ({"activation_function": ["gelu"]}, "activation_function"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"), ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "output layer is missing"), ({"model_type": "llama"}, "llama"),
        ({"model_type": ["gpt2"]}, "model_type"), ({"model_type": "absent"}, "model_type"),
    ],
)  # fmt: skip
def test_configs_that_do_not_fit(folder, facts, said):
    change(folder, **facts)
    assert huggingface.recognises(folder), "or nobody would say what is wrong with it"
    with pytest.raises(UserError, match=said):
        huggingface.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff", "[" * 100_000, '{"n_layer": 2, "n_layer": 3}', None])
def test_configs_that_are_none(folder, text):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert huggingface.recognises(folder) is (text is not None)
    with pytest.raises(UserError, match=r"config\.json"):
        huggingface.read(folder)


def test_weights_that_are_missing(folder):
    (folder / "model.safetensors").unlink()
    assert not huggingface.recognises(folder) and not huggingface.recognises(folder / "nowhere")
    with pytest.raises(UserError, match="no weights"):
        huggingface.read(folder)


def test_tensors_too_few_too_many_misshapen(folder):
    def edit(content):
        content["score.weight"] = np.ones((2, 16), np.float32)
        del content["transformer.ln_f.bias"]
        content["transformer.h.1.attn.c_attn.weight"] = np.ones((48, 16), np.float32)

    rewrite(folder, edit)
    with pytest.raises(UserError) as caught:
        huggingface.read(folder)
    for said in ("score.weight is not part", "ln_f.bias is missing", "c_attn.weight is [48, 16], needed [16, 48]"):
        assert said in str(caught.value)
    rewrite(folder, lambda content: content.update({"transformer.ln_f.bias": np.ones(16, np.int8)}))
    with pytest.raises(UserError, match="type I8"):
        huggingface.read(folder)


def test_heads(gpt2, folder):
    table = gpt2.transformer.wte.weight.detach().numpy()
    change(folder, tie_word_embeddings=False)
    rewrite(folder, lambda content: content.update({"lm_head.weight": table.copy()}))
    equal(arrays(huggingface.read(folder)), gpt2)
    table = table.copy()
    table[299, 15] += 1e-6
    for other in (table, table[:200]):
        rewrite(folder, lambda content, other=other: content.update({"lm_head.weight": other}))
        with pytest.raises(UserError, match="not the embedding table"):
            huggingface.read(folder)


FILES = {
    "cut in the data": lambda data, start: data[:-5],
    "cut in the header": lambda data, start: data[: start // 2],
    "no header": lambda data, start: data[:3],
    "empty": lambda data, start: b"",
    "too long": lambda data, start: data + bytes(4),
    "length lies": lambda data, start: struct.pack("<Q", 2**63) + data[8:],
    "a list": lambda data, start: struct.pack("<Q", 2) + b"[]" + data[start:],
    "deep": lambda data, start: struct.pack("<Q", 100_000) + b"[" * 100_000 + data[start:],
    "a name twice": lambda data, start: data.replace(b"transformer.h.1.ln_2.bias", b"transformer.h.1.ln_1.bias"),
    "header too short": lambda data, start: struct.pack("<Q", start - 9) + data[8:],
}
ENTRIES = {
    "overlap": {"data_offsets": [0, 64]}, "out of the file": {"data_offsets": [10**6, 10**6 + 64]},
    "backwards": {"data_offsets": [64, 0]}, "one offset": {"data_offsets": [0]},
    "broken offset": {"data_offsets": [0.0, 64.0]}, "negative": {"shape": [-16]}, "other shape": {"shape": [17]},
    "shape is text": {"shape": "16"}, "unknown type": {"dtype": "F31"}, "type is a list": {"dtype": ["F32"]},
}  # fmt: skip


@pytest.mark.parametrize("how", [*FILES, *ENTRIES])
def test_broken_safetensors(folder, how):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    if how in FILES:
        path.write_bytes(FILES[how](data, start))
    else:
        table = json.loads(data[8:start])
        table["transformer.ln_f.bias"] |= ENTRIES[how]
        text = json.dumps(table).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])
    with pytest.raises(UserError, match="not a whole safetensors file") as caught:
        huggingface.read(folder)
    assert "model.safetensors" in str(caught.value)


INDEXES = {
    "shard": "00001-of-.* is missing", "name": "disagree: transformer.ln_f.bias is in it and not in the index",
    "extra": "disagree: transformer.ln_g.bias is not in it", "no map": "weight_map",
    "climb": "which is no", "absolute": "which is no", "other kind": "which is no",
}  # fmt: skip


@pytest.mark.parametrize("how", INDEXES)
def test_broken_indexes(gpt2, original, tmp_path, how):
    folder = tmp_path / "model"
    gpt2.save_pretrained(folder, max_shard_size="10KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = sorted(index["weight_map"].values())[0]
    if how == "shard":
        (folder / shard).unlink()
    elif how == "name":
        del index["weight_map"]["transformer.ln_f.bias"]
    elif how == "extra":
        index["weight_map"]["transformer.ln_g.bias"] = shard
    elif how == "no map":
        index["weight_map"] = [shard]
    else:
        # A whole model lies there, so that nothing but its place is wrong.
        whole = shutil.copy(original / "model.safetensors", tmp_path)
        other = {"climb": "../model.safetensors", "absolute": str(whole), "other kind": "model.bin"}[how]
        index["weight_map"] = dict.fromkeys(index["weight_map"], other)
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=INDEXES[how]):
        huggingface.read(folder)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_not_run(folder, tmp_path, zipped):
    (folder / "model.safetensors").unlink()
    evil = {"a": Evil(tmp_path / "run")}
    torch.save(evil, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="refused: this file asks to run .*mkdir"):
        huggingface.read(folder)
    assert not (tmp_path / "run").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "run").exists(), "the test's own weapon is blunt"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4 hello", "cut", "list", "number", "name", "expanded"])
def test_broken_files_of_torch(gpt2, folder, content):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    state = dict(gpt2.state_dict())
    # The last is 4 bytes on the disk that claim to be 4 TB.
    table = torch.ones(1, 1).expand(10**6, 10**6)
    whole = {"list": [1], "number": state | {"a": 1}, "name": {1: table}, "expanded": state | {"lm_head.weight": table}}
    torch.save(whole.get(content, state), path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError, match="torch.save|tensor|embedding table"):
        huggingface.read(folder)


def test_without_torch(folder, gpt2, monkeypatch):
    (folder / "model.safetensors").unlink()
    torch.save(gpt2.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        huggingface.read(folder)
