"""`tfgpt report` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tfgpt.cli import run_verb


def report(*words) -> int:
    return run_verb("tfgpt.cli.report", list(words), prog="tfgpt report")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs in models/, seen from the folder above."""
    monkeypatch.chdir(tmp_path)
    for name, loss in (("small", 3.0), ("large", 2.0)):
        (tmp_path / "models" / name).mkdir(parents=True)
        lines = [
            {"event": "start", "step": 0, "time": 1.0},
            {"event": "train", "step": 2, "time": 2.0, "losses": [9.0, loss]},
        ]
        (tmp_path / "models" / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "words,written",
    [
        (["models/small"], ["models/small/report.html"]),
        (["models/small/"], ["models/small/report.html"]),
        (["models/small/metrics.jsonl"], ["models/small/report.html"]),
        (["models/small", "models/large"], ["report.html"]),
        (["models/small", "--output", "a.html"], ["a.html"]),
        (["models/small", "models/large", "--output", "a.html", "--png", "a.png"], ["a.html", "a.png"]),
    ],
)
def test_files_are_written_where_it_says(words, written, runs, capsys):
    if "--png" in words:
        pytest.importorskip("matplotlib")
    before = {p for p in runs.rglob("*") if p.is_file()}
    assert report(*words) == 0
    assert capsys.readouterr().out.split() == [word for path in written for word in ("wrote", path)]
    assert {p for p in runs.rglob("*") if p.is_file()} - before == {runs / path for path in written}
    for path in written:
        assert (runs / path).read_bytes().startswith(b"<!DOCTYPE html>" if path.endswith("html") else b"\x89PNG")


@pytest.mark.parametrize(
    "words,what,nearest",
    [
        (["models"], "no training run is here", "models/large, models/small"),
        (["nowhere"], "no training run is here", ""),
        (["models/small", "--output", "models"], "--output names is a folder", ""),
        (["models/small", "--png", "no/such/a.png"], "--png names lies in a folder that does not exist", ""),
    ],
)
def test_mistakes_are_named_and_write_nothing(words, what, nearest, runs, capsys):
    before = set(runs.rglob("*"))
    assert report(*words) == 2
    error = capsys.readouterr().err
    assert what in error and "fix:" in error and "Traceback" not in error
    assert not nearest or f"nearest: {nearest}" in error
    assert set(runs.rglob("*")) == before


def test_help_ends_with_an_example_and_no_heavy_import(runs):
    code = (
        "import sys; from tfgpt.cli import run_verb; run_verb('tfgpt.cli.report', ['models/small'], prog='tfgpt report');"
        "sys.exit(bool({'tensorflow', 'keras', 'matplotlib', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    shown = subprocess.run(
        [sys.executable, "-c", "from tfgpt.cli import run_verb; run_verb('tfgpt.cli.report', ['--help'], prog='tfgpt report')"],
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert shown.rstrip().endswith("tfgpt report models/small models/large --output both.html --png both.png")
