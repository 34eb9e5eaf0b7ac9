"""OpenAI's, ConnorJL's and an Estimator's checkpoints as TensorFlow 1 writes them, and ours as TensorFlow 1 restores them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.conftest import ROOT
from tfgpt import tokenizers
from tfgpt.errors import Failure, UserError
from tfgpt.weights import openai
from tfgpt.weights.source import Source, Tensor

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1
HPARAMS = {"n_vocab": 11, "n_ctx": 6, "n_embd": 8, "n_head": 2, "n_layer": 2}
DATA = "model.ckpt.data-00000-of-00001"
# Their name, ours, and the shape for a width of d, one line for each kind of variable; {i} is the block.
TABLE = """
model/wte                 wte.weight                V,d
model/wpe                 wpe.weight                T,d
model/ln_f/g              ln_f.weight               d
model/ln_f/b              ln_f.bias                 d
model/h{i}/ln_1/g         h.{i}.ln_1.weight         d
model/h{i}/ln_1/b         h.{i}.ln_1.bias           d
model/h{i}/ln_2/g         h.{i}.ln_2.weight         d
model/h{i}/ln_2/b         h.{i}.ln_2.bias           d
model/h{i}/attn/c_attn/w  h.{i}.attn.c_attn.weight  1,d,3*d
model/h{i}/attn/c_attn/b  h.{i}.attn.c_attn.bias    3*d
model/h{i}/attn/c_proj/w  h.{i}.attn.c_proj.weight  1,d,d
model/h{i}/attn/c_proj/b  h.{i}.attn.c_proj.bias    d
model/h{i}/mlp/c_fc/w     h.{i}.mlp.c_fc.weight     1,d,4*d
model/h{i}/mlp/c_fc/b     h.{i}.mlp.c_fc.bias       4*d
model/h{i}/mlp/c_proj/w   h.{i}.mlp.c_proj.weight   1,4*d,d
model/h{i}/mlp/c_proj/b   h.{i}.mlp.c_proj.bias     d
"""


def names(layers: int = 2) -> dict[str, str]:
    """Our name for each of theirs."""
    pairs = [line.split()[:2] for line in TABLE.split("\n") if line]
    return {theirs.format(i=i): own.format(i=i) for i in range(layers) for theirs, own in pairs}


def model(width: int = 8, layers: int = 2, vocabulary: int = 11) -> dict[str, np.ndarray]:
    """The variables of a GPT-2 under their names."""
    draw = np.random.default_rng(width)
    found = {}
    for line in filter(None, TABLE.split("\n")):
        name, _, text = line.split()
        shape = tuple(eval(f"({text},)", {"d": width, "V": vocabulary, "T": 6}))
        found |= {name.format(i=i): draw.normal(size=shape).astype("float32") for i in range(layers)}
    return found


def save(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    """As TensorFlow 1 saves variables, with the `checkpoint` file."""
    prefix.parent.mkdir(exist_ok=True)
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.Variable(array) for name, array in arrays.items()}
        session.run(v1.global_variables_initializer())
        v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)


def save_quickly(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    """With the operation that the Saver ends in, for the many checkpoints that are wrong."""
    prefix.parent.mkdir(exist_ok=True)
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=[arrays[n] for n in names]
    )


def holds(source: Source, arrays: dict[str, np.ndarray], layers: int = 2) -> None:
    """Whether each tensor is the variable of the table, without the axis of length 1."""
    assert set(source.tensors) == set(names(layers).values())
    for theirs, own in names(layers).items():
        tensor, array = source.tensors[own].read(), arrays[theirs].astype("float32")
        array = array[0] if array.ndim == 3 else array
        assert tensor.dtype == np.float32 and tensor.shape == source.tensors[own].shape
        np.testing.assert_array_equal(tensor, array)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder as OpenAI's, without a tokenizer."""
    found = tmp_path_factory.mktemp("saved") / "tiny"
    save(found / "model.ckpt", model())
    (found / "hparams.json").write_text(json.dumps(HPARAMS), encoding="utf-8")
    return found


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def refused(path, *words: str, **options) -> None:
    before = sorted(path.iterdir())
    with pytest.raises(UserError) as caught:
        openai.read(str(path), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert sorted(path.iterdir()) == before


def test_a_folder_of_openai(folder):
    source = openai.read(str(folder))
    assert (source.kind, source.keys, source.notes) == ("OpenAI's GPT-2 (a TensorFlow checkpoint)", HPARAMS, ())
    assert source.path == str(folder / "model.ckpt") and source.tokenizer is None
    holds(source, model())


def test_a_folder_of_connor(tmp_path):
    arrays = model(width=64)
    save(tmp_path / "117M/model.ckpt", arrays)
    source = openai.read(str(tmp_path / "117M"))
    assert source.keys == HPARAMS | {"n_embd": 64, "n_head": 1}
    assert source.kind.startswith("ConnorJL") and "taken to have 1 heads, of 64 each" in source.notes[0]
    holds(source, arrays)
    told = openai.read(str(tmp_path / "117M"), n_head=8)
    assert told.keys["n_head"] == 8 and told.notes == ()
    refused(tmp_path / "117M", "7 heads do not divide a width of 64", n_head=7)
    refused(tmp_path / "117M", "n_head must be a whole number of at least 1", n_head=0)


def test_a_width_that_64_does_not_divide(folder):
    (folder / "hparams.json").unlink()
    refused(folder, "no hparams.json", "width of 8", "n_head")
    holds(openai.read(str(folder), n_head=4), model())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_run_of_an_estimator(tmp_path, dtype):
    """Weights in another type, slots of its optimizers, counters; the newest of several steps."""
    run = tmp_path / "run"
    arrays = {
        name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for name, array in model().items()
    }
    state = {"global_step": np.int64(200), "beta1_power": np.float32(0.9), "OptimizeLoss/beta2_power": np.float32(0.9)}
    for name, array in arrays.items():
        state |= {f"{name}/AdamW": array, f"{name}/AdamW_1": array, f"{name}/AdafactorW": array[..., 0]}
        state |= {f"training/{name}/Adam": array, f"{name}/Momentum": array}
    save(run / "model.ckpt-1000", {"other": np.ones(1, "float32")})
    save(run / "model.ckpt-200", arrays | state)
    source = openai.read(str(run), n_head=2)
    assert source.path == str(run / "model.ckpt-200")  # the `checkpoint` file says so; by step it would be the other
    assert source.notes == (
        f"left out: {len(state)} variables of the optimizer and counters",
        f"weights kept as {dtype} were converted to float32",
    )
    holds(source, arrays)


def test_which_checkpoint_of_a_run(tmp_path):
    run = tmp_path / "run"
    for step, width in ((90, 8), (1000, 16), (200, 24)):
        save_quickly(run / f"model.ckpt-{step}", model(width))
    mark = run / "checkpoint"

    def width(path: Path = run) -> int:
        return openai.read(str(path), n_head=2).keys["n_embd"]

    mark.write_text('model_checkpoint_path: "model.ckpt-200"\n', encoding="utf-8")
    assert width() == 24
    mark.write_text('model_checkpoint_path: "/gone/elsewhere/run/model.ckpt-90"\n', encoding="utf-8")
    assert width() == 8
    mark.write_text('model_checkpoint_path: "/gone/elsewhere/run/model.ckpt-5000"\n', encoding="utf-8")
    source = openai.read(str(run), n_head=2)
    assert source.keys["n_embd"] == 16
    assert source.notes == ("its `checkpoint` file names model.ckpt-5000, which is not here: took model.ckpt-1000",)
    mark.unlink()
    source = openai.read(str(run), n_head=2)
    assert source.keys["n_embd"] == 16 and source.notes == ("there are 3 checkpoints: took model.ckpt-1000",)
    for path in ("model.ckpt-200", "model.ckpt-200.index", "model.ckpt-200.data-00000-of-00001", "model.ckpt-200.meta"):
        assert openai.recognises(str(run / path)) and width(run / path) == 24
    assert not openai.recognises(str(run / "model.ckpt-2"))
    refused(tmp_path, "no weights in this folder", str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)no TensorFlow checkpoint here.*model\.ckpt-2"):
        openai.read(str(run / "model.ckpt-2"))


def test_a_prefix_in_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for path in ("model.ckpt", ".", "model.ckpt.index"):
        assert openai.recognises(path) and openai.read(path).keys == HPARAMS


def test_what_it_recognises(folder, tmp_path):
    assert openai.recognises(str(folder))
    (folder / DATA).unlink()
    (folder / "model.ckpt.index").unlink()
    assert openai.recognises(str(folder)), "a download that stopped early"
    refused(folder, "no weights in this folder")
    (folder / "model-5.hdf5").write_bytes(b"")
    assert not openai.recognises(str(folder))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "ckpt.pt", "model.ckpt.index.old"):
        (other / name).write_bytes(b"")
    for path in (other, other / "ckpt.pt", tmp_path / "nothing", tmp_path):
        assert not openai.recognises(str(path))


def test_recognising_takes_no_tensorflow(folder):
    code = f"""
import sys
from tfgpt.weights import openai
assert openai.recognises({str(folder)!r})
assert "tensorflow" not in sys.modules and "h5py" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (b"{", ["not JSON", "hparams.json"]),
        (b"\xff\xfe{", ["not JSON", "hparams.json"]),
        (b"[" * 100_000, ["not JSON", "hparams.json"]),
        (b"[12]", ["JSON object", "hparams.json"]),
        ({"n_layer": 3}, ["h.2.ln_1.weight is missing", "and 7 more"]),
        ({"n_layer": 1}, ["h.1.", "is not part of this model"]),
        ({"n_layer": 10**9}, ['"n_layer" must be a whole number from 1 to 10000', "found 1000000000"]),
        ({"n_embd": 16}, ["wte.weight is [11, 8], needed [11, 16]"]),
        ({"n_vocab": 12}, ["wte.weight is [11, 8], needed [12, 8]"]),
        ({"n_ctx": 5}, ["wpe.weight is [6, 8], needed [5, 8]"]),
        ({"n_head": 3}, ["3 heads do not divide a width of 8"]),
        ({"n_head": 0}, ['"n_head" must be a whole number from 1', "found 0"]),
        ({"n_head": 2.0}, ['"n_head" must be a whole number', "found 2.0"]),
        ({"n_head": "2"}, ['"n_head"', 'found "2"']),
        ({"n_head": True}, ['"n_head"', "found true"]),
        ({"n_head": None}, ['"n_head"', "found null"]),
    ],
)
def test_hparams_that_are_wrong(folder, change, words):
    content = change if isinstance(change, bytes) else json.dumps(HPARAMS | change).encode()
    (folder / "hparams.json").write_bytes(content)
    refused(folder, str(folder), *words)


def test_hparams_that_lack_a_key_or_disagree(folder):
    refused(folder, "4 heads were asked for, it has 2", n_head=4)
    (folder / "hparams.json").write_text('{"n_vocab": 11}', encoding="utf-8")
    refused(folder, '"n_ctx"', "it is missing", "hparams.json")
    (folder / "hparams.json").write_text(json.dumps(HPARAMS | {"res_dropout": 0.1}), encoding="utf-8")
    assert openai.read(str(folder), n_head=2).keys == HPARAMS


def swapped(arrays):
    a, b = "model/h0/attn/c_attn/w", "model/h0/mlp/c_fc/w"
    return arrays | {a: arrays[b], b: arrays[a]}


def without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def renamed(old, new):
    return lambda arrays: {key.replace(old, new): array for key, array in arrays.items()}


ONE = np.ones((2, 3), "float32")
FAULTS = [
    (swapped, ["h.0.attn.c_attn.weight is [8, 32], needed [8, 24]", "h.0.mlp.c_fc.weight is [8, 24], needed [8, 32]"]),
    (without("model/h1/ln_2/b"), ["h.1.ln_2.bias is missing"]),
    (without("model/wpe"), ["wpe"]),
    (lambda a: a | {"model/h0/attn/rotary": ONE}, ["model/h0/attn/rotary is not part of this model"]),
    (lambda a: a | {"classifier/w": ONE}, ["classifier/w is not part of this model"]),
    (lambda a: a | {"model/wte/extra": ONE, "model/h0": ONE}, ["model/h0 is not part of this model"]),
    (lambda a: a | {"model/ln_f/w": ONE}, ["model/ln_f/w is not part"]),
    (renamed("/h1/ln_1", "/h01/ln_1"), ["h.1.ln_1.weight is missing", "model/h01/ln_1/b is not part"]),
    (renamed("/h1/", "/h99999999999/"), ["h.1.ln_1.weight is missing", "and 19 more"]),
    (lambda a: a | {"model/wte": a["model/wte"][None]}, ["wte", "[1, 11, 8]"]),
    (lambda a: a | {"model/ln_f/g": a["model/ln_f/g"].astype("int64")}, ["model/ln_f/g holds int64, not weights"]),
    (lambda a: {"wte": ONE, "model/x": ONE}, ["not those of a GPT-2", "found: model/x, wte"]),
]


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_tensors_that_are_wrong(tmp_path, change, words, stated):
    save_quickly(tmp_path / "tiny/model.ckpt", change(model()))
    if stated:
        (tmp_path / "tiny/hparams.json").write_text(json.dumps(HPARAMS), encoding="utf-8")
    refused(tmp_path / "tiny", str(tmp_path / "tiny/model.ckpt"), *words, n_head=2)


def test_matrices_without_the_axis_of_length_1(tmp_path):
    arrays = {name: array[0] if array.ndim == 3 else array for name, array in model().items()}
    save_quickly(tmp_path / "tiny/model.ckpt", arrays)
    holds(openai.read(str(tmp_path / "tiny"), n_head=2), arrays)


def test_damaged_files(folder):
    path = folder / DATA
    whole = path.read_bytes()
    for content, words in ((whole[:-1], ["cut short", DATA]), (None, ["missing", DATA])):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        refused(folder, *words, "fetch it again")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 128]))  # the last in the order of names is wte
    source = openai.read(str(folder))
    source.tensors["h.0.ln_1.bias"].read()
    with pytest.raises(UserError, match=f"(?s)model/wte cannot be read.*{DATA}.*fetch it again"):
        source.tensors["wte.weight"].read()
    # What cannot be read is not half written either.
    (folder.parent / "out").mkdir()
    with pytest.raises(UserError, match="model/wte cannot be read"):
        openai.write(source, str(folder.parent / "out"))
    assert not list((folder.parent / "out").iterdir())
    (folder / "model.ckpt.index").unlink()
    refused(folder, "index of the checkpoint is missing", "model.ckpt.index")


@pytest.fixture(scope="module")
def spoken():
    return tokenizers.train_bpe(["to be or not to be, that is the question " * 20], 270)


def written(source: Source, folder: Path) -> Path:
    folder.mkdir()
    openai.write(source, str(folder))
    return folder


def test_what_we_write_tensorflow_1_restores(folder, tmp_path, spoken):
    source = dataclasses.replace(openai.read(str(folder)), tokenizer=spoken)
    out = written(source, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint", "encoder.json", "hparams.json", DATA, "model.ckpt.index", "vocab.bpe",
    ]  # fmt: skip
    assert (out / DATA).read_bytes() == (folder / DATA).read_bytes()
    assert json.loads((out / "hparams.json").read_text()) == HPARAMS
    # As OpenAI's own code does it: variables by scope, the newest checkpoint of the folder, restore.
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.get_variable(name, array.shape) for name, array in model().items()}
        found = tf.train.latest_checkpoint(str(out))
        v1.train.Saver().restore(session, found)
        for name, array in model().items():
            np.testing.assert_array_equal(session.run(variables[name]), array)
    again = openai.read(str(out))
    holds(again, model())
    assert again.tokenizer.fingerprint == spoken.fingerprint
    shutil.copytree(out, tmp_path / "moved")
    shutil.rmtree(out)
    holds(openai.read(str(tmp_path / "moved")), model())


def test_a_tokenizer_of_another_kind_is_left_out(folder, tmp_path):
    source = dataclasses.replace(openai.read(str(folder)), tokenizer=tokenizers.from_name("byte"))
    assert len(list(written(source, tmp_path / "out").iterdir())) == 4


def test_half_a_tokenizer_is_none(folder, spoken):
    spoken.save(folder)
    assert openai.read(str(folder)).tokenizer.n_vocab == 270
    (folder / "vocab.bpe").unlink()
    assert openai.read(str(folder)).tokenizer is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"activation": "gelu"}, 'activation "gelu"'),
        ({"attention_types": [[["global", "sliding"], 1]]}, "sliding attention"),
        (
            {"attention_types": [[["global"], 1], [["local"], 1]], "activation": "gelu"},
            'activation "gelu" and local attention',
        ),
    ],
)
def test_what_the_format_cannot_say(folder, tmp_path, keys, words):
    source = openai.read(str(folder))
    source = dataclasses.replace(source, keys={**source.keys, **keys})
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=f"cannot say {words}"):
        openai.write(source, str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())
    plain = {"activation": "gelu_tanh", "attention_types": [[["global"], 2]]}
    openai.write(dataclasses.replace(source, keys={**HPARAMS, **plain}), str(tmp_path / "out"))


def test_nothing_is_written_over_or_left_behind(folder, tmp_path):
    source = openai.read(str(folder))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="is here already"):
        openai.write(source, str(folder))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

    def fail():
        raise Failure("the source is gone")

    (tmp_path / "out").mkdir()
    for broken, what in (({"wte.weight": Tensor((11, 8), fail)}, "gone"), ({"extra": Tensor((1,), fail)}, "extra")):
        with pytest.raises(UserError, match=what):
            openai.write(dataclasses.replace(source, tensors={**source.tensors, **broken}), str(tmp_path / "out"))
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured from /proc")
def test_the_memory_of_writing_is_that_of_one_tensor(tmp_path):
    code = f"""
import re, sys
import numpy as np
from tfgpt.weights import openai
from tfgpt.weights.source import Source, Tensor, expected

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

keys = {{"n_layer": 16, "n_head": 8, "n_embd": 512, "n_ctx": 64, "n_vocab": 1000}}
tensors = {{n: Tensor(s, lambda s=s: np.ones(s, "float32")) for n, s in expected(keys).items()}}
before = peak()
openai.write(Source("made up", "nowhere", keys, tensors), {str(tmp_path)!r})
assert "tensorflow" not in sys.modules
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (tmp_path / DATA).stat().st_size > 200e6
    assert float(done.stdout) < 60
