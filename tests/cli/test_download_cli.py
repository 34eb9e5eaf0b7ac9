"""`tfgpt download` and `download_model.py` as a person types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tfgpt.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_names_everything_with_size_and_place(capsys):
    assert main(["download", "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(rows) == ["117M", "PrettyBig", "1.5B", "encoder", "124M", "355M", "774M", "1558M", "shakespeare"]
    assert "1.5 MB" in rows["encoder"] and "./encoder" in rows["encoder"] and "6.2 GB" in rows["1558M"]


def test_encoder_and_shakespeare_print_the_next_command(tmp_path, monkeypatch, capsys, gpt2_encoder, shakespeare):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "stick"
    source.mkdir()
    for file in (gpt2_encoder / "encoder.json", gpt2_encoder / "vocab.bpe", shakespeare):
        (source / file.name).symlink_to(file)
    assert main(["download", "encoder", "shakespeare", "--from_dir", "stick"]) == 0
    said = capsys.readouterr().out
    assert "tfgpt encode my_text_folder --encoder_path encoder --output data/my_text" in said
    assert "tfgpt encode data/tinyshakespeare.txt --tokenizer char --output data/shakespeare_char" in said
    assert (tmp_path / "data/tinyshakespeare.txt").stat().st_size == 1_115_394


def test_the_next_command_names_the_folder_that_was_asked_for(tmp_path, monkeypatch, capsys, gpt2_encoder):
    monkeypatch.chdir(tmp_path)
    assert main(["download", "encoder", "--from_dir", str(gpt2_encoder), "--output", "my files"]) == 0
    assert "--encoder_path 'my files'" in capsys.readouterr().out


def test_models_print_where_they_lie_and_how_to_generate_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("stick").mkdir()
    for end in ("data-00000-of-00001", "index", "meta"):
        Path("stick", f"model.ckpt.{end}").write_bytes(b"made up")
    assert main(["download", "117M", "--from_dir", "stick"]) == 0
    said = capsys.readouterr().out
    assert "117M is in 117M" in said and "--set model_path=117M encoder_path=encoder --predict_text" in said
    assert sorted(p.name for p in Path("117M").iterdir() if not p.name.startswith(".")) == [
        "checkpoint",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "model.ckpt.meta",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no NAME given"),
        (["encoder", "shakespear"], '"shakespeare"'),
        (["encoder", "shakespeare", "--output", "x"], "one NAME"),
    ],
)
def test_mistakes_end_with_2_and_make_nothing(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["download", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and "fix:" in said and list(tmp_path.iterdir()) == []


def test_no_network_ends_with_1_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["download", "encoder", "--base_url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "encoder.json could not be fetched" in said and "--from_dir" in said and "Traceback" not in said


def test_the_script_of_the_repository_works_from_any_folder(tmp_path):
    script = [sys.executable, str(ROOT / "download_model.py")]
    helped = subprocess.run([*script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "usage: download_model.py" in helped and "tfgpt download encoder" in helped and "--base_url" in helped
    wrong = subprocess.run([*script, "345M"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and '"355M"' in wrong.stderr
