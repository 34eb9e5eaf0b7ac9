"""What others trained, by the commands a person types: fetched, generated with, trained on, exported, certified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.weights import others
from tfgpt import tokenizers
from tfgpt.cli import main, run_verb
from tfgpt.data import english
from tfgpt.training import checkpoints, opening


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A byte-pair encoder of 300 ids, in OpenAI's files."""
    folder = tmp_path_factory.mktemp("tokenizer") / "encoder"
    tokenizers.train_bpe((text for _, text in english.documents()), 300).save(folder)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model_configs").symlink_to(ROOT / "model_configs")
    return tmp_path


@pytest.fixture
def openai(home, encoder):
    """OpenAI's folder, and the weights in it."""
    return home / "124M", others.openai(home / "124M", encoder)


def ran(*words):
    assert main([str(word) for word in words]) == 0


def train_py(*words):
    """`python main.py`."""
    return run_verb("tfgpt.cli.train", [str(word) for word in words], prog="python main.py")


def test_openai_through_tfgpt_and_hugging_face_to_transformers_and_back(openai, home, capsys):
    transformers = pytest.importorskip("transformers")
    folder, weights = openai
    ran("import", folder, "mine")
    assert "2 blocks, 24 wide, 3 heads, 48 tokens, vocabulary 300" in capsys.readouterr().out
    ran("export", "mine", "--to", "huggingface", "theirs")
    model, said = transformers.AutoModelForCausalLM.from_pretrained("theirs", output_loading_info=True)
    assert not any(said.values()), said
    for name, weight in model.transformer.state_dict().items():
        np.testing.assert_array_equal(weight.numpy(), weights[name], err_msg=name)
    ids = np.random.default_rng(1).integers(0, 300, 48).tolist()
    rows = others.logits_of(others.transformers_gpt2(weights), ids)
    np.testing.assert_allclose(others.logits_of(model.eval(), ids), rows, atol=1e-5)
    spoken = transformers.AutoTokenizer.from_pretrained("theirs")
    own = tokenizers.load(folder)
    for text in ("Hello there, it's 1984!", " two  spaces\n\nand é ü 日本"):
        assert spoken(text)["input_ids"] == own.encode(text)
    # And back again, to the same bits.
    ran("import", "theirs", "again")
    ran("export", "again", "--to", "openai", "last")
    import tensorflow as tf

    reader = tf.train.load_checkpoint("last")
    for name, weight in weights.items():
        np.testing.assert_array_equal(reader.get_tensor(others.tensorflow_name(name)).reshape(weight.shape), weight)
    assert json.loads((home / "last/hparams.json").read_text()) == others.SIZES
    for name in ("encoder.json", "vocab.bpe"):
        assert (home / "last" / name).read_bytes() == (folder / name).read_bytes()
    ran("certify", "again", "--against", "theirs", "--tolerance", "1e-4", "--length", "20")
    said = capsys.readouterr().out
    assert "by tfgpt, float32" in said and "by transformers" in said and "the same for 20 of 20 tokens" in said
    ran("certify", "last", "--against", folder, "--tolerance", "1e-4", "--length", "20")
    assert "by NumPy, float64" in capsys.readouterr().out


def test_a_released_folder_generates_scores_and_trains_without_an_import(openai, home, capsys):
    folder, weights = openai
    (home / "texts").mkdir()
    (home / "texts/a.txt").write_text("It was the best of times, it was the worst of times. " * 200)
    ran("predict", folder, "--text", "Hello", "--greedy", "--length", "5", "--dtype", "float32")
    direct = capsys.readouterr().out
    ran("import", folder, "mine")
    ran("predict", "mine", "--text", "Hello", "--greedy", "--length", "5", "--dtype", "float32")
    assert capsys.readouterr().out.endswith(direct)
    ran("score", folder, "--text", "Hello there", "--json", "--summary")
    assert json.loads(capsys.readouterr().out)["count"] > 1
    tuned = ["--set", "text=texts", "max_steps=2", "train_steps=2", "warmup_steps=0", "train_batch_size=2"]
    ran("train", "--model", "mine/config.json", *tuned, "minimum_size=1")
    found = checkpoints.load("mine-tuned")
    assert found.step == 2 and found.config["init_from"] == "mine"
    moved = np.abs(found.weights["h.0.mlp.c_fc.weight"] - weights["h.0.mlp.c_fc.weight"]).max()
    assert 0 < moved < 1e-3  # two small steps away from where it began


def test_a_run_begins_with_the_model_that_lies_in_its_own_folder(openai, home, encoder, capsys):
    """ConnorJL's users name the downloaded folder as model_path, and train on."""
    folder, weights = openai
    (home / "texts").mkdir()
    (home / "texts/a.txt").write_text("It was the best of times, it was the worst of times. " * 200)
    settings = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_ctx": 48, "text": "texts", "encoder_path": str(encoder)}
    settings |= {"n_vocab": 300, "max_steps": 2, "warmup_steps": 0, "train_batch_size": 2, "minimum_size": 1}
    (home / "X.json").write_text(json.dumps(settings | {"model_path": str(folder), "train_steps": 2}))
    assert train_py("--model", "X.json", "--eval_only") == 0
    assert train_py("--model", "X.json") == 0
    assert "weights from" in capsys.readouterr().out
    found = checkpoints.load(str(folder))
    assert found.step == 2 and np.abs(found.weights["wpe.weight"] - weights["wpe.weight"]).max() < 1e-2
    ran("predict", folder, "--text", "It", "--length", "3")
    assert "step 2" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"n_head": 2}, {"activation": "gelu"}])
def test_weights_are_not_taken_for_what_they_are_not(openai, home, encoder, change, capsys):
    (home / "a.txt").write_text("words and words " * 500)
    settings = others.SIZES | {"text": "a.txt", "encoder_path": str(encoder), "init_from": "124M", "max_steps": 1}
    settings |= {"warmup_steps": 0, "train_batch_size": 1, "minimum_size": 1} | change
    (home / "X.json").write_text(json.dumps(settings))
    assert train_py("--model", "X.json") == 2
    assert next(iter(change)) in capsys.readouterr().err


def test_gpt_neo_through_tfgpt_and_back(home, capsys):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GPTNeoConfig(
        vocab_size=300, max_position_embeddings=48, hidden_size=24, num_layers=4, num_heads=3, window_size=7,
        attention_types=[[["global", "local"], 2]], attention_dropout=0.0, embed_dropout=0.0, resid_dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2)
    model.save_pretrained("neo")
    ran("import", "neo", "mine")
    ran("certify", "mine", "--against", "neo", "--tolerance", "1e-4", "--length", "30", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["equal"] and found["agreed"] == 30 and found["difference"] > 0
    assert found["by"][1].startswith("transformers") and found["by"][0].startswith("tfgpt")
    ran("export", "mine", "--to", "huggingface", "again")
    ids = np.random.default_rng(1).integers(0, 300, 48).tolist()
    last = transformers.AutoModelForCausalLM.from_pretrained("again").eval()
    assert type(last).__name__ == "GPTNeoForCausalLM"
    np.testing.assert_allclose(others.logits_of(last, ids), others.logits_of(model, ids), atol=1e-4)
    assert main(["export", "mine", "--to", "openai", "no"]) == 2
    assert not (home / "no").exists()


def test_nanogpt_computes_here_what_it_computes_there(home, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    weights = others.weights()
    others.nanogpt(home / "out/ckpt.pt", weights)
    ran("import", "out", "mine")
    assert "activation gelu" in capsys.readouterr().out
    ran("export", "mine", "--to", "huggingface", "theirs")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained("theirs").eval()
    ids = np.random.default_rng(1).integers(0, 300, 48).tolist()
    exact, rounded = (
        others.logits_of(others.transformers_gpt2(weights, activation=kind), ids) for kind in ("gelu", "gelu_new")
    )
    np.testing.assert_allclose(others.logits_of(model, ids), exact, atol=1e-5)
    assert np.abs(exact - rounded).max() > 1e-4, "or the two activations would be the same"
    ran("certify", "mine", "--against", "theirs", "--tolerance", "1e-4", "--length", "10")
    assert main(["certify", "mine", "--against", "out", "--tolerance", "0", "--length", "1"]) == 1
    assert "NOT equal" in capsys.readouterr().out


def test_different_models_do_not_get_a_certificate(openai, home, encoder, capsys):
    others.openai(home / "other", encoder, seed=1)
    assert main(["certify", "124M", "--against", "other", "--length", "5"]) == 1
    assert "NOT equal within 0.001" in capsys.readouterr().out
    others.openai(home / "smaller", n_vocab=299)
    assert main(["certify", "124M", "--against", "smaller"]) == 2
    assert "vocabularies of 300 and 299" in capsys.readouterr().err


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_the_chapters_on_downloading_and_generating_work_as_written(home, encoder, capsys):
    """`download_model.py 117M`, then `main.py --predict_text`: a small model in ConnorJL's layout on a server of our own."""
    others.openai(home / "server/117M", hparams=False, n_layer=3, n_embd=48, n_head=12)
    (home / "server/117M/checkpoint").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(home / "server")))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        ran("download", "117M", "--base_url", f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
    said = capsys.readouterr().out
    command = said.strip().splitlines()[-1].split(" train ")[1]
    assert command.startswith("--model 117M --set model_path=117M encoder_path=encoder --predict_text")
    shutil.copytree(encoder, home / "encoder")
    words = ["--model", "model_configs/117M.json", "--set", "model_path=117M", "encoder_path=encoder"]
    assert train_py(*words, "--predict_text", "Hello", "--top_k", "40", "--seed", "1") == 0
    out = capsys.readouterr().out
    assert "SAMPLE 0" in out and "Hello" in out
    assert (home / "logs/predictions.txt").read_text() == out
    (home / "prompt.txt").write_text("It was")
    assert train_py(*words, "--predict_file", "prompt.txt", "--length", "4") == 0
    assert "It was" in capsys.readouterr().out
    source = opening.source("117M", n_head=12)
    assert source.keys["n_head"] == 12 and source.keys["n_layer"] == 3


def test_what_is_no_model_is_refused_with_what_would_be_one(home, capsys):
    (home / "stuff").mkdir()
    (home / "stuff/readme.txt").write_text("nothing here")
    for words in (("import", "stuff", "out"), ("export", "stuff", "--to", "openai", "out"), ("import", "gone", "out")):
        assert main(list(words)) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not (home / "out").exists()


def test_nothing_that_exists_is_written_over(openai, home, capsys):
    (home / "full").mkdir()
    (home / "full/mine.txt").write_text("dear to me")
    assert main(["import", "124M", "full"]) == 2 and main(["export", "124M", "--to", "openai", "full"]) == 2
    assert [p.name for p in (home / "full").iterdir()] == ["mine.txt"]
    (home / "empty").mkdir()
    ran("import", "124M", "empty")
    assert checkpoints.load("empty").step == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "hparams", "nan"])
def test_a_broken_source_leaves_nothing_behind(openai, home, damage, capsys):
    folder, weights = openai
    data = folder / "model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    if damage == "truncated":
        data.write_bytes(content[:-1000])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "gone":
        data.unlink()
    elif damage == "hparams":
        (folder / "hparams.json").write_text(json.dumps(others.SIZES | {"n_layer": 3}))
    else:
        others.weights, kept = (
            (lambda seed, **sizes: weights | {"ln_f.bias": np.full(24, np.nan, "f4")}),
            others.weights,
        )
        try:
            others.openai(folder)
        finally:
            others.weights = kept
    before = sorted(p.name for p in home.iterdir())
    for words in (["import", "124M", "out"], ["export", "124M", "--to", "huggingface", "out"]):
        code = main(words)
        said = capsys.readouterr().err
        if damage == "nan" and words[0] == "export":
            continue  # it may be written as it is
        assert code in (1, 2) and "124M" in said, said
        assert sorted(p.name for p in home.iterdir()) == before


@pytest.mark.slow
def test_every_form_computes_the_same(openai, home, capsys):
    folder, _ = openai
    for form in ("savedmodel", "keras"):
        ran("export", folder, "--to", form, form)
        ran("certify", form, "--against", folder, "--tolerance", "1e-4", "--length", "8")
        assert "the same for 8 of 8 tokens" in capsys.readouterr().out
    ran("export", folder, "--to", "litert", "litert")
    assert (home / "litert/model.tflite").stat().st_size > 10_000
    assert sorted(p.name for p in home.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    "setting, word",
    [
        ("n_layer=1", "n_layer is 2 in this model"),
        ("n_embd=16", "n_embd is 24"),
        ("n_vocab=500", "n_vocab is 300"),
        ("activation=gelu", "activation is at its default"),
        ("n_head=2", "2 heads were asked for"),
        ("foo=1", "foo"),
        ("lr=-1", "lr must be"),
    ],
)
def test_what_a_model_decides_itself_cannot_be_set(openai, home, setting, word, capsys):
    assert main(["import", "124M", "out", "--set", "max_steps=10", "warmup_steps=2", setting]) == 2
    said = capsys.readouterr().err
    assert word in said and "pydantic" not in said and not (home / "out").exists()


def test_a_tokenizer_that_belongs_to_a_larger_model_is_refused(openai, home, tmp_path, capsys):
    tokenizers.train_bpe((text for _, text in english.documents()), 400).save(home / "large")
    assert main(["import", "124M", "out", "--tokenizer", "large"]) == 2
    assert "400 ids, the model only 300" in capsys.readouterr().err and not (home / "out").exists()


def test_a_certificate_never_compares_our_engine_with_itself(openai, home, capsys):
    ran("import", "124M", "mine")
    ran("export", "mine", "--to", "openai", "theirs")
    for words in (("theirs", "mine"), ("mine", "theirs"), ("mine", "mine"), ("theirs", "124M")):
        capsys.readouterr()
        ran("certify", words[0], "--against", words[1], "--length", "2", "--json")
        by = json.loads(capsys.readouterr().out)["by"]
        assert sorted(one.split(",")[0] for one in by) == ["NumPy", "tfgpt"], words


@pytest.mark.parametrize(
    "content", ["[1]", "{", '{"model_type": "llama"}', '{"model_type": "gpt2", "model_type": "gpt2"}']
)
def test_a_folder_of_hugging_faces_that_cannot_be_read_is_not_taken_for_an_empty_one(home, content, capsys):
    (home / "broken").mkdir()
    (home / "broken/config.json").write_text(content)
    (home / "broken/model.safetensors").write_bytes(b"12345678")
    assert main(["import", "broken", "out"]) == 2 and main(["predict", "broken", "--text", "x"]) == 2
    (home / "a.txt").write_text("words and words " * 500)
    settings = others.SIZES | {"text": "a.txt", "tokenizer": "byte", "model_path": "broken", "max_steps": 1}
    (home / "X.json").write_text(json.dumps(settings | {"warmup_steps": 0, "train_batch_size": 1, "minimum_size": 1}))
    assert train_py("--model", "X.json") == 2
    said = capsys.readouterr().err
    assert said.count("tfgpt: error") == 3 and "there is no checkpoint" not in said and "config.json" in said


def test_single_files_of_a_model_lead_to_its_folder(openai, home, capsys):
    assert main(["import", "124M/hparams.json", "out"]) == 2
    assert "name 124M" in capsys.readouterr().err
    (home / "124M/hparams.json").write_text(json.dumps(others.SIZES)[:-1] + ', "n_head": 2}')
    assert main(["import", "124M", "out"]) == 2
    assert "stands there twice" in capsys.readouterr().err


def test_a_run_beside_a_released_model_comes_first_everywhere(openai, home, encoder, capsys):
    ran("import", "124M", "mine")
    (home / "124M/checkpoints").mkdir()
    others.openai(home / "other", encoder, seed=1)
    ran("import", "other", "124M/checkpoints/step-00000000")
    ran("import", "124M", "again")
    assert (checkpoints.load("again").weights["wpe.weight"] != checkpoints.load("mine").weights["wpe.weight"]).all()


def test_an_export_that_a_signal_ends_leaves_nothing(openai, home):
    words = [sys.executable, "-m", "tfgpt", "export", "124M", "--to", "litert", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(words, **pipes, env=os.environ | {"PYTHONPATH": str(ROOT)})
    time.sleep(6)
    running.send_signal(signal.SIGTERM)
    shown, said = running.communicate(timeout=60)
    if "out is there" in shown:  # it was done by then; a process on its way out may end by the signal itself
        assert (home / "out" / "model.tflite").exists()
    else:
        assert running.returncode == 143 and "Traceback" not in said, said
        assert not (home / "out").exists()
    assert not [p.name for p in home.iterdir() if p.name.startswith(".")]
