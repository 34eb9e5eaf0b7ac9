"""The server's configuration: every mistake at once, before anything is loaded."""

from __future__ import annotations

import json

import pytest

from tfgpt.cli import main
from tfgpt.serving import settings


def write(path, **keys):
    path.write_text(json.dumps({"models": [{"key": "a", "path": str(path.parent)}]} | keys))
    return str(path)


def test_every_mistake_is_in_one_report(tmp_path, capsys):
    models = [
        {"key": "a", "path": str(tmp_path)},
        {"key": "a", "path": "nowhere"},
        {"key": "b", "sanitizer": "no.such"},
    ]
    path = write(tmp_path / "s.json", models=models)
    assert main(["serve", path]) == 2
    said = capsys.readouterr().err
    assert 'two models are called "a"' in said and '"nowhere"' in said and "no.such" in said and "where does" in said
    path = write(tmp_path / "s.json", prot=1, port="x", slots=0)
    assert main(["serve", path]) == 2
    said = capsys.readouterr().err
    assert "3 mistakes" in said and 'nearest: "port"' in said and "$.slots" in said


@pytest.mark.parametrize("text", ["{", "[]", '{"models": []}', '{"models": 3}', ""])
def test_files_that_are_none(tmp_path, text, capsys):
    (tmp_path / "s.json").write_text(text)
    assert main(["serve", str(tmp_path / "s.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_sample_is_legal_and_older_files_load(tmp_path, capsys):
    assert main(["serve", "--sample"]) == 0
    sample = json.loads(capsys.readouterr().out)
    assert main(["serve"]) == 2 and "--sample" in capsys.readouterr().err
    for model in sample["models"]:
        model["path"] = str(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(sample))
    assert main(["serve", str(tmp_path / "s.json"), "--check"]) == 0
    old = {"key": "chatbot", "model_name": "355M", "restore_from": str(tmp_path), "sanitizer": "sanitizers.chatbot"}
    (tmp_path / "s.json").write_text(json.dumps({"host": "0.0.0.0", "port": 12345, "debug": 1, "models": [old]}))
    assert main(["serve", str(tmp_path / "s.json"), "--check"]) == 0
    assert "lets other machines in" in capsys.readouterr().out
    found = settings.load(str(tmp_path / "s.json"))
    assert found.models[0].folder == str(tmp_path) and found.models[0].clean()("0|me|Hello <EOM>") == "Hello"
