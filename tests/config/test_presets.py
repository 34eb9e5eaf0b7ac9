"""Presets are found by name from any folder, and each of them is a sound configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfgpt import config
from tfgpt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_every_preset_loads_and_fits_the_schema(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = config.json_schema()["properties"]
    names = config.preset_names()
    assert {
        "117M",
        "345M",
        "PrettyBig",
        "1.5B",
        "quickstart",
        "shakespeare_char_cpu",
        "shakespeare_char",
        "my_text",
        "chat",
    } == set(names)
    for name in names:
        assert config.load(name, check_files=False).model_path == f"models/{name}"
        assert set(json.loads((config.PRESETS / f"{name}.json").read_text("utf-8"))) <= set(known)


def test_the_small_presets_have_the_shapes_they_promise():
    keys = (
        "n_layer n_head n_embd n_ctx train_batch_size res_dropout beta2 weight_decay lr min_lr warmup_steps max_steps"
    )
    cpu = config.load("shakespeare_char_cpu", check_files=False)
    # nanoGPT's shape and batch on a CPU; its 2,000 steps of AdamW are more than muon needs for the same loss.
    assert [getattr(cpu, k) for k in keys.split()[:8]] == [4, 4, 128, 64, 12, 0.0, 0.99, 0.1]
    assert cpu.opt_name == "muon" and cpu.max_steps <= 2000 and cpu.eval_steps == "all"
    assert (cpu.tokenizer, cpu.text, cpu.eval_fraction, cpu.minimum_size) == (
        "char",
        ["data/tinyshakespeare.txt"],
        0.1,
        1,
    )
    gpu = config.load("shakespeare_char", check_files=False)
    assert [getattr(gpu, k) for k in keys.split()] == [6, 6, 384, 256, 64, 0.2, 0.99, 0.1, 1e-3, 1e-4, 100, 5000]


def test_a_preset_runs_with_a_text_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("hello", encoding="utf-8")
    assert config.load("shakespeare_char_cpu", ["text=mine.txt"]).text == ["mine.txt"]


def test_a_path_comes_before_a_preset_and_a_folder_is_not_in_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("117M").mkdir()  # where `download 117M` puts its files
    assert config.load("117M", check_files=False).n_layer == 12
    Path("model_configs").mkdir()
    Path("model_configs/mine.json").write_text('{"n_layer": 3}', encoding="utf-8")
    assert config.load("mine", check_files=False).n_layer == 3
    assert config.load("model_configs/mine", check_files=False).n_layer == 3
    Path("117M.json").write_text('{"n_layer": 7}', encoding="utf-8")
    assert config.load("117M", check_files=False).n_layer == 7


@pytest.mark.parametrize(
    ("name", "near"),
    [("118M", '"117M"'), ("shakespear_char.json", '"shakespeare_char"'), ("", ""), ("/", ""), ("a/../b.json", "")],
)
def test_an_unknown_name_gets_the_nearest(tmp_path, monkeypatch, name, near):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        config.load(name)
    assert caught.value.nearest == near and "117M" in caught.value.fix


def test_the_template_is_explained_key_by_key():
    text = (ROOT / "docs" / "my_text.md").read_text("utf-8")
    missing = [
        key
        for key in json.loads((ROOT / "model_configs" / "my_text.json").read_text("utf-8"))
        if f"`{key}`" not in text
    ]
    assert not missing
