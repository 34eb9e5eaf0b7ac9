"""Snapshots as shawwn's fine-tuner writes them with h5py: a dataset for each variable, named with ":0"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tfgpt.errors import UserError
from tfgpt.weights import hdf5, openai
from tfgpt.weights.source import expected

h5py = pytest.importorskip("h5py")
KEYS = {"n_vocab": 11, "n_ctx": 6, "n_embd": 8, "n_head": 2, "n_layer": 2}
SOME = {
    "model/wte": "wte.weight",
    "model/ln_f/g": "ln_f.weight",
    "model/h1/attn/c_attn/w": "h.1.attn.c_attn.weight",
    "model/h0/mlp/c_proj/b": "h.0.mlp.c_proj.bias",
}


def variables(width: int = 8) -> dict[str, np.ndarray]:
    """The variables of a GPT-2 under OpenAI's names, matrices with their axis of length 1."""
    draw, found = np.random.default_rng(width), {}
    for name, shape in expected(KEYS | {"n_embd": width}).items():
        path, leaf = name.rsplit(".", 1)
        kind = "b" if leaf == "bias" else "g" if ".ln_" in path or path == "ln_f" else "w"
        theirs = "model/" + path.replace("h.0.", "h0/").replace("h.1.", "h1/").replace(".", "/")
        theirs += "" if path in ("wte", "wpe") else f"/{kind}"
        found[theirs] = draw.normal(size=(1, *shape) if theirs.endswith("/w") else shape).astype("float32")
    return found


def save(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"{name}:0", data=array, **options)
    return path


def refused(path: Path, *words: str, **options) -> None:
    with pytest.raises(UserError) as caught:
        hdf5.read(str(path), **options)
    assert all(word in str(caught.value) for word in (str(path), *words)), str(caught.value)


def holds(source, arrays) -> None:
    assert len(source.tensors) == len(arrays) == 28
    for theirs, own in SOME.items():
        tensor, array = source.tensors[own].read(), arrays[theirs].astype("float32")
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, array[0] if array.ndim == 3 else array)


def test_one_snapshot(tmp_path):
    path = save(tmp_path / "run1/model-400.hdf5", variables())
    source = hdf5.read(str(path), n_head=2)
    assert (source.path, source.keys, source.notes) == (str(path), KEYS, ())
    assert "HDF5" in source.kind and source.tokenizer is None
    holds(source, variables())
    refused(path, "no hparams.json", "width of 8")
    path.with_name("hparams.json").write_text(json.dumps(KEYS), encoding="utf-8")
    assert hdf5.read(str(path)).keys == KEYS


def test_heads_of_64(tmp_path):
    source = hdf5.read(str(save(tmp_path / "run1/model-400.hdf5", variables(128))))
    assert source.keys["n_head"] == 2 and "taken to have 2 heads" in source.notes[0]


def test_the_newest_of_a_folder_that_is_not_deleted(tmp_path):
    run = tmp_path / "run1"
    for step, width in ((90, 8), (200, 16), (1000, 24)):
        save(run / f"model-{step}.hdf5", variables(width))
    (run / "model-9000.hdf5").write_bytes(b"")
    (run / "model-9500.hdf5.tmp").write_bytes(b"half")
    (run / "counter").write_text("9000\n", encoding="utf-8")
    assert hdf5.recognises(str(run)) and not openai.recognises(str(run))
    source = hdf5.read(str(run), n_head=4)
    assert source.path == str(run / "model-1000.hdf5") and source.keys["n_embd"] == 24
    assert source.notes == ("there are 3 snapshots: took model-1000.hdf5",)
    refused(run / "model-9000.hdf5", "empty", "deletes")
    for step in (90, 200, 1000):
        os.truncate(run / f"model-{step}.hdf5", 0)
    refused(run, "all 4 snapshots in this folder are empty")
    refused(tmp_path, "no snapshot here")
    refused(run / "model-77.hdf5", "no such snapshot")


def test_what_it_recognises(tmp_path):
    path = save(tmp_path / "run1/model-5.hdf5", variables())
    assert hdf5.recognises(str(path)) and hdf5.recognises(str(path.parent))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tf_model.h5", "model.weights.h5", "model-5.hdf5.tmp", "config.json"):
        (other / name).write_bytes(b"")
    for nothing in (other, other / "tf_model.h5", tmp_path / "none.hdf5", tmp_path):
        assert not hdf5.recognises(str(nothing))


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"dtype": "float16"}, {"dtype": ">f4"}, {"dtype": "float64"}]
)
def test_other_ways_to_store_them(tmp_path, options):
    arrays = variables()
    source = hdf5.read(str(save(tmp_path / "m/model-5.hdf5", arrays, **options)), n_head=2)
    half = options.get("dtype") == "float16"
    holds(source, {name: array.astype("float16") if half else array for name, array in arrays.items()})
    assert bool(source.notes) is (options.get("dtype") in ("float16", "float64"))


def test_counters_and_slots_are_left_out(tmp_path):
    arrays = variables()
    more = {"global_step": np.int64(5), "model/h0/ln_1/g/Adam_1": np.ones(8), "beta1_power": np.float32(0.9)}
    with h5py.File(save(tmp_path / "m/model-5.hdf5", arrays), "a") as file:
        for name, array in more.items():
            file.create_dataset(f"optimizer/{name}:0", data=array)
    source = hdf5.read(str(tmp_path / "m"), n_head=2)
    holds(source, arrays)
    assert source.notes == ("left out: 3 variables of the optimizer and counters",)


def test_wrong_tensors(tmp_path):
    path, arrays = tmp_path / "m/model-5.hdf5", variables()
    a, b = "model/h0/attn/c_attn/w", "model/h0/mlp/c_fc/w"
    save(path, arrays | {a: arrays[b], b: arrays[a]})
    refused(path, "h.0.attn.c_attn.weight is [8, 32], needed [8, 24]", n_head=2)
    save(path, {name: array for name, array in arrays.items() if name != b})
    refused(path, "h.0.mlp.c_fc.weight is missing", n_head=2)
    save(path, arrays | {"model/h0/more": np.ones(3)})
    refused(path, "model/h0/more is not part of this model", n_head=2)
    save(path, {"layer/kernel": np.ones(3)})
    refused(path, "not those of a GPT-2", "layer/kernel")
    save(path, arrays)
    path.with_name("hparams.json").write_text(json.dumps(KEYS | {"n_layer": 3}), encoding="utf-8")
    refused(path, "h.2.ln_1.weight is missing")


@pytest.mark.parametrize("left", [1, 100, 2000, -100])
def test_a_snapshot_cut_short(tmp_path, left):
    path = save(tmp_path / "m/model-5.hdf5", variables())
    os.truncate(path, left % path.stat().st_size)
    refused(path, "damaged", "cut short", "fetch it again", n_head=2)


def test_a_snapshot_that_goes_while_it_is_read(tmp_path):
    path = save(tmp_path / "m/model-5.hdf5", variables())
    source = hdf5.read(str(path), n_head=2)
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="(?s)model/wte:0 cannot be read.*model-5.hdf5"):
        source.tensors["wte.weight"].read()


def test_no_changed_byte_ends_in_another_error(tmp_path):
    """HDF5 has no checksums, so weights may come out changed; but nothing else than a UserError may come out."""
    path = save(tmp_path / "m/model-5.hdf5", {"model/wte": np.ones((3, 4), "float32")})
    whole = path.read_bytes()
    for at in (at for at, byte in enumerate(whole) if byte):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        try:
            for variable in hdf5._variables(str(path)).values():
                variable.read()
        except UserError as error:
            assert "damaged" in str(error)


def test_h5py_is_imported_late():
    code = "import sys; from tfgpt.weights import hdf5; assert not {'h5py', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
