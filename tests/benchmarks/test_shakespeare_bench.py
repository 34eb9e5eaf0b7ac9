"""`tfgpt bench shakespeare` as a person types it, cut short."""

from __future__ import annotations

import json
import math

import pytest

from tfgpt.benchmarks import peers, shakespeare
from tfgpt.benchmarks.shakespeare_torch import _rate
from tfgpt.cli import main
from tfgpt.errors import Failure

TEXT = "".join(f"{i} green bottles, standing on the wall.\n" for i in range(400))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "bottles.txt"
    path.write_text(TEXT, "utf-8")
    return path


def ran(capsys, *words):
    assert main(["bench", "shakespeare", "--repeats", "1", *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_our_whole_command_is_timed(text, capsys):
    found = ran(capsys, "--text", str(text), "--steps", "3", "--peers", "none")
    ours = found["results"]["tfgpt"]
    assert set(found["results"]) == {"tfgpt"} and "of_their_time" not in found
    assert ours["steps"] == 3 and ours["seconds"] > 0 and ours["loss"] < math.log(66) + 0.1


@pytest.mark.slow
def test_nanogpts_recipe_learns_and_is_timed_beside_ours(text, capsys):
    pytest.importorskip("torch")
    found = ran(capsys, "--text", str(text), "--steps", "60")
    ours, theirs = found["results"]["tfgpt"], found["results"]["nanoGPT's recipe"]
    assert theirs["steps"] == ours["steps"] == 60
    assert theirs["loss"] < 3.0  # from ln 35 = 3.6
    assert found["of_their_time"] == pytest.approx(ours["seconds"] / theirs["seconds"], abs=1e-3)


def test_their_rate_is_that_of_their_flags():
    rates = [_rate(step, 2000) for step in range(2001)]
    assert rates[99] == pytest.approx(1e-3 * 100 / 101) and rates[100] == 1e-3 and rates[2000] == pytest.approx(1e-4)
    assert all(a <= b for a, b in zip(rates[:100], rates[1:101], strict=True))
    assert all(a >= b for a, b in zip(rates[100:], rates[101:], strict=False))


def test_a_missing_text_and_a_missing_peer_are_said(monkeypatch, text, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "shakespeare"]) == 2
    assert "tfgpt download" in capsys.readouterr().err
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "shakespeare", "--text", str(text)]) == 2
    assert "pip install torch --extra" in capsys.readouterr().err


def test_a_contestant_that_fails_is_reported_by_its_error():
    with pytest.raises(Failure, match="nobody wrote this module|No module named"):
        shakespeare._timed("nobody", ["tfgpt.benchmarks.nobody_wrote_this_module"])
