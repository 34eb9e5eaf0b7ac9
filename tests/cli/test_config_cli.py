"""`tfgpt config` as a person runs it: exit codes, one report, speed, round trips."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfgpt import config
from tfgpt.cli import main

# Fifteen files, each broken in a way people break them, and a part of the report each must give.
BROKEN = {
    "trailing comma": (b'{"n_layer": 2,\n}', "a comma with nothing after it", "line 1, column 14"),
    "comment": (b'{\n// small\n"n_layer": 2}', "a comment: JSON has none", "line 2, column 1"),
    "duplicate key": (
        b'{"n_layer": 2,\n"n_layer": 3}',
        "is there twice (first in line 1)",
        "line 2, column 1, $.n_layer",
    ),
    "nan": (b'{"lr": NaN}', "NaN is not a JSON number", "$.lr"),
    "utf-16": ('{"n_layer": 2}'.encode("utf-16"), "the file is UTF-16", "broken.json"),
    "latin-1": (b'{"text": "caf\xe9"}', "byte 0xe9 at offset 13 is not UTF-8", "line 1"),
    "single quotes": (b"{'n_layer': 2}", "single quotes", "line 1, column 2"),
    "empty": (b"", "the file is empty", "line 1"),
    "a list": (b"[]", "a configuration is one object", "line 1"),
    "unterminated": (b'{"text": "data}', "a string that never ends", "line 1, column 10, $.text"),
    "unknown key": (
        b'{\n\n\n"n_heads": 4}',
        'unknown key "n_heads"',
        'line 4, column 1, $.n_heads\n     nearest: "n_head"',
    ),
    "number in quotes": (b'{"n_layer": "12"}', 'found "12" (text)', "$.n_layer"),
    "bool for int": (b'{"n_layer": true}', "found true (true/false)", "$.n_layer"),
    "heads": (b'{"n_embd": 100, "n_head": 3}', "3 heads do not divide a width of 100", "$.n_head"),
    "huge": (b'{"n_ctx": 1' + b"0" * 400 + b"}", "is too large", "$.n_ctx"),
    "missing file": (b'{"text": "no/such/folder"}', 'nothing is at "no/such/folder"', "$.text"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_report_and_exit_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content, what, where = BROKEN[name]
    Path("broken.json").write_bytes(content)
    check = ["--check_files"] if name == "missing file" else []
    assert main(["config", "show", "broken.json", *check]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("tfgpt: error: 1 mistake in broken.json; nothing was created\n1. ") and out == ""
    assert what in err and where in err and "fix:" in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.json"], "nothing may be created"


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "tfgpt", *words], cwd=cwd, capture_output=True, text=True, encoding="utf-8"
    )


def test_the_real_command_line(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my.json").write_text('{"n_heads": 4}', encoding="utf-8")
    bad = run("config", "show", "sub/my.json", cwd=tmp_path)
    assert bad.returncode == 2 and "1 mistake in " in bad.stderr and "$.n_heads" in bad.stderr and bad.stdout == ""
    assert run("config", "show", "117", cwd=tmp_path).returncode == 2
    started = time.perf_counter()
    good = run("config", "show", "sub/my.json", "--set", "lr=1", cwd=tmp_path) and run(
        "config", "show", "117M", cwd=tmp_path
    )
    assert good.returncode == 0 and time.perf_counter() - started < 4  # two starts; one takes well under a second
    code = "import sys, tfgpt.cli; tfgpt.cli.main(['config', 'show', '117M']); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_show_says_where_values_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.json").write_text('{\n "n_layer": 2\n}', encoding="utf-8")
    assert main(["config", "show", "--set", "lr=1e-4", "my.json", "--debug"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert rows["n_layer"] == ["2", "line", "2"]
    assert rows["lr"] == ["0.0001", "--set", "lr=1e-4"]
    assert rows["n_embd"] == ["768", "default"]
    assert set(rows) == set(config.Config.model_fields)


def test_show_json_is_a_configuration_with_the_same_values(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in config.preset_names():
        assert main(["config", "show", name, "--json"]) == 0
        Path("copy.json").write_text(capsys.readouterr().out, encoding="utf-8")
        assert config.load("copy.json", check_files=False) == config.load(name, check_files=False)


def test_diff(capsys):
    assert main(["config", "diff", "117M", "345M"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["n_layer"] == ["12", "24"] and rows["n_embd"] == ["768", "1024"] and "lr" not in rows
    assert main(["config", "diff", "117M", "345M", "--set", "n_layer=3"]) == 0
    assert "n_layer" not in capsys.readouterr().out
    assert main(["config", "diff", "117M", "117M"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_schema_and_reference(capsys):
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config.json_schema()
    assert main(["config", "reference"]) == 0
    assert capsys.readouterr().out == config.reference()
