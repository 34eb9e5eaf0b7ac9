"""`tfgpt bench generate`: what it makes of its contestants' figures, and how it times them."""

from __future__ import annotations

import json

import pytest

from tfgpt.benchmarks import generate, generation_work
from tfgpt.errors import Failure, UserError


def figures(seconds, **more):
    return {"seconds": seconds, "first": 0.1, "first_long": 1.0, "peak_bytes": 10**9, "with": "it"} | more


@pytest.fixture
def canned(monkeypatch):
    """No processes: int8 takes 1 s, everything else of ours 2 s, CTranslate2 4 and 3 s, transformers 8 s."""
    seconds = {"tfgpt int8": 1.0, "CTranslate2 int8": 4.0, "CTranslate2 float32": 3.0, "transformers float32": 8.0}
    asked = []

    def answer(name, module, work, *more):
        asked.append((name, work.batch, *more))
        ours = {"bytes_per_step": 10**9, "cache_bytes": 0} if name.startswith("tfgpt") else {}
        return figures(seconds.get(name, 2.0) * work.batch, **ours)

    monkeypatch.setattr(generate, "_in_fresh_process", answer)
    monkeypatch.setattr(generate, "write_weights", lambda folder, shapes: None)
    monkeypatch.setattr(generate, "read_bandwidth", lambda: 256e9)
    monkeypatch.setattr(generate.importlib.util, "find_spec", lambda name: True)
    return asked


def test_ratios_and_the_last_line(canned, capsys):
    generate.run(peers="all", batches=[1, 8], repeats=2, rounds=1)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["batch 1"]["int8_x_best_ctranslate2"] == 3.0  # the better one of its two types
    assert summary["batch 1"]["float32_x_ctranslate2_float32"] == 1.5
    assert summary["batch 8"]["int8_x_transformers"] == 8.0
    row = summary["results"]["tfgpt int8, batch 1"]
    assert row["tokens_per_s"] == 128.0 and row["of_memory_limit"] == 0.5
    timed = [entry for entry in canned if "convert" not in entry]
    assert len(timed) == 2 * 2 * 6 and timed[:6] != timed[6:12] == [(name, 8) for name, _ in timed[:6]]


def test_alone(canned, capsys):
    generate.run(peers="none", batches=[3], repeats=1, rounds=1)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name.split()[0] for name in summary["results"]} == {"tfgpt"} and "batch 3" not in summary


def test_missing_peers_are_named(monkeypatch):
    monkeypatch.setattr(generate.importlib.util, "find_spec", lambda name: None if name == "ctranslate2" else True)
    with pytest.raises(UserError) as caught:
        generate.run(peers="all", batches=[1], repeats=1, rounds=1)
    assert "ctranslate2" in str(caught.value)


def test_a_contestant_that_fails_says_why():
    work = generation_work.Work(folder="/nowhere", batch=1, dtype="float32", rounds=1, threads=1)
    with pytest.raises(Failure) as caught:
        generate._in_fresh_process("some one", "no_such_module", work)
    assert "some one" in str(caught.value) and "no_such_module" in str(caught.value)


def test_a_contestant_that_writes_less_is_caught():
    work = generation_work.Work(folder="", batch=2, dtype="float32", rounds=1, threads=1)
    calls = []

    def write(prompts, tokens):
        calls.append((len(prompts), len(prompts[0]), tokens))
        return [[0] * tokens for _ in prompts]

    found = work.timed(write)
    assert calls == [(2, 64, 128), (1, 900, 2), (2, 64, 128), (1, 64, 1), (1, 900, 1)]
    assert found["seconds"] >= 0 and found["peak_bytes"] > 10**6
    with pytest.raises(AssertionError):
        work.timed(lambda prompts, tokens: [[0] * min(tokens, 5) for _ in prompts])


def test_bandwidth_is_no_fantasy():
    assert 1e8 < generate.read_bandwidth() < 1e13


def test_options_of_another_benchmark_are_refused():
    import argparse

    from tfgpt.cli import bench

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    for line in (["generate", "--shape", "S"], ["train", "--rounds", "2"], ["encode", "--peers", "none"]):
        with pytest.raises(SystemExit):
            parser.parse_args(line)
