"""`tfgpt check` as a person runs it: marks, exit codes, nothing created, and advice that holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.training import small
from tfgpt import config as configs
from tfgpt.cli import run_verb
from tfgpt.training import estimates
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.probe import resident


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A configuration with text of its own, in an empty folder."""
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for number in range(30):
        small.write_text(tmp_path / "texts" / f"{number}.txt", seed=number)
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**small.KEYS, "text": "texts", "model_path": "models/small"}))
    return path


def check(capsys, *words: str) -> tuple[int, str]:
    code = run_verb("tfgpt.cli.check", [str(word) for word in words], prog="tfgpt check")
    return code, capsys.readouterr().out


def point(out: str, name: str) -> str:
    """The mark and lines of one point."""
    found = re.search(rf"^ *\d+\. (\S+ +{name}\s.*?)(?=^ *\d+\. |^\n|\Z)", out, re.MULTILINE | re.DOTALL)
    assert found, f"no point {name!r} in:\n{out}"
    return found[1]


def test_all_is_well_and_nothing_is_created(model, capsys, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    code, out = check(capsys, model, "--set", "lr=0.002", "--set", "max_steps=40")
    assert code == 0 and "✗" not in out
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert "not encoded yet" in point(out, "data") and point(out, "data").startswith("!")
    assert "8 windows = 1 replica × 1 micro-batch × 8 windows" in point(out, "batches")
    assert "lr 0.002" in point(out, "configuration") and "beta1" not in point(out, "configuration")
    assert re.search(r"a step, [\d,]+ tokens a second", point(out, "time")) and "40 steps" in point(out, "time")
    numbers = [int(n) for n in re.findall(r"^ *(\d+)\. ", out, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 10
    last = out.strip().splitlines()[-1]
    assert last.startswith("next: ") and last.endswith(f"train --model {model} --set lr=0.002 --set max_steps=40")


def test_how_much_of_a_chat_counts(model, capsys, tmp_path):
    said = "1|mum|ab <EOM>\n0|mum|abcdefghijkl <EOM>\n"  # 8 and 18 of 40 bytes
    (tmp_path / "a.chat").write_text(said * 300)
    for words, share in ((["text=a.chat", "loss_on=sent"], "20%"), (["loss_on=received"], "0%")):
        code, out = check(capsys, model, *(w for word in words for w in ("--set", word)), "--no_timing")
        found = point(out, "data")
        assert code == 0 and f"about {share} of its text is {words[-1][8:]}" in found
        assert ("only lines of the chat format have sides" in found) == (share == "0%")


def test_too_little_memory_is_a_cross_and_the_advice_fits(model, capsys, monkeypatch):
    many = ["--set", "train_batch_size=4096", "--set", "n_ctx=64", "--set", "n_embd=64", "--no_timing"]
    # What this process holds of other tests' libraries counts as TensorFlow's own.
    monkeypatch.setattr(estimates, "free_memory", lambda kind: resident()[0] + (500 << 20))
    code, out = check(capsys, model, *many)
    memory = point(out, "memory")
    assert code == 1 and memory.startswith("✗")
    advice = re.search(r"this would, with .*: (--set .*)", memory)[1]
    code, out = check(capsys, model, *many, *advice.split())
    assert code == 0 and point(out, "memory").startswith("✓")


def test_a_full_disk_is_a_cross(model, capsys, monkeypatch):
    monkeypatch.setattr(estimates, "free_disk", lambda folder: 10_000)
    code, out = check(capsys, model, "--no_timing")
    assert code == 1 and point(out, "disk").startswith("✗") and "do not fit" in point(out, "disk")


def test_an_earlier_run_goes_on_or_is_refused_with_the_difference(model, capsys):
    config = configs.load(str(model)).model_dump(mode="json")
    arrays = {"wte.weight": np.zeros((64, 32), "float32")}
    with Checkpoints("models/small", keep_last=2) as kept:
        kept.save(20, arrays, arrays, {}, config, None, wait=True)
    code, out = check(capsys, model, "--no_timing")
    assert code == 0 and "goes on from step 20 of 30" in point(out, "earlier run")
    code, out = check(capsys, model, "--no_timing", "--set", "max_steps=20", "--set", "warmup_steps=3")
    assert code == 0 and "complete: step 20 of 20" in point(out, "earlier run")
    code, out = check(capsys, model, "--no_timing", "--set", "n_layer=2")
    refused = point(out, "earlier run")
    assert code == 1 and refused.startswith("✗") and "n_layer: 1 -> 2" in refused


def test_a_missing_file_is_one_cross_among_points_that_go_on(model, capsys, tmp_path):
    assert run_verb("tfgpt.cli.prepare", ["--model", str(model), "--set", "data_path=data"], prog="x") == 0
    shard = next((tmp_path / "data").glob("*train*.tfrecords"), None) or next((tmp_path / "data").glob("*.tfrecords"))
    code, out = check(capsys, model, "--no_timing", "--set", "data_path=data")
    assert code == 0 and point(out, "data").startswith("✓") and "about" not in point(out, "data")
    os.remove(shard)
    code, out = check(capsys, model, "--no_timing", "--set", "data_path=data")
    assert code == 1 and point(out, "data").startswith("✗") and shard.name in point(out, "data")
    assert "disk" in out and out.count("✗") >= 1


def test_a_broken_configuration_ends_with_2(model, capsys):
    code, out = check(capsys, model, "--set", "n_head=3")
    assert code == 2 and out == ""


def test_many_epochs_deserve_a_thought(model, capsys):
    code, out = check(capsys, model, "--no_timing", "--set", "max_steps=100000", "--set", "n_vocab=257")
    assert code == 0 and point(out, "data").startswith("!") and "learns by heart" in point(out, "data")


def test_marks_are_plain_where_the_terminal_knows_no_others(model):
    program = (
        "import sys; from tfgpt.cli import run_verb; sys.exit(run_verb('tfgpt.cli.check', sys.argv[1:], prog='x'))"
    )
    command = [sys.executable, "-c", program, str(model), "--no_timing"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode("ascii")
    assert "1. ok configuration" in out and "1 replica x 1 micro-batch" in point(out, "batches")
