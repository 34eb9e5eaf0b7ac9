"""`tfgpt bench train` as a person types it, on a small shape."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tfgpt.benchmarks import train
from tfgpt.benchmarks.training_work import SHAPES, Work, peak_bytes
from tfgpt.cli import main

TINY = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_ctx": 16, "n_vocab": 65, "rows": 3}


def work(**keys):
    first = {"sizes": TINY, "precision": "float32", "calls": 2, "steps_per_call": 3, "compiled": False}
    return Work(**(first | {"weights": "", "threads": 1} | keys))


@pytest.mark.slow
def test_both_sides_do_the_same_work(monkeypatch, capsys):
    """Ten steps of AdamW on the same weights and tokens: the losses of both agree far better than the limit asks."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setitem(SHAPES, "S", TINY)
    assert main(["bench", "train", "--shape", "S", "--peer", "torch", "--steps", "6", "--repeats", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    found = json.loads(said[-1])
    assert found["losses_differ"] < 1e-4 and found["steps"] == 5 and set(found["results"]) == {"tfgpt", "torch"}
    ours, theirs = found["results"]["tfgpt"], found["results"]["torch"]
    assert found["x_speed"] == pytest.approx(ours["tokens_per_s"] / theirs["tokens_per_s"], rel=0.01)
    assert ours["lowest"] <= ours["tokens_per_s"] <= ours["highest"] and ours["peak_mb"] > 100
    assert any("x as fast" in line for line in said)


def test_losses_that_differ_are_no_result(capsys):
    row = {"tokens_per_s": 1.0, "peak_mb": 1}
    with pytest.raises(train.Failure, match="did not do the same work"):
        train._compare({"losses": [4.0, 3.0]}, {"losses": [4.0, 3.2]}, row, row)
    assert train._compare({"losses": [4.0]}, {"losses": [4.0]}, row, row)["losses_differ"] == 0


@pytest.mark.parametrize("missing", [["torch"], ["transformers"], ["torch", "transformers"]])
def test_a_missing_peer_is_named_with_the_command_that_installs_it(monkeypatch, capsys, missing):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None if name in missing else object())
    assert main(["bench", "train"]) == 2
    said = capsys.readouterr().err
    assert " and ".join(missing) in said and "pip install torch transformers" in said and "nearest: none" in said


@pytest.mark.parametrize("flags", [["train", "--mb", "3"], ["encode", "--shape", "S"]])
def test_a_flag_of_the_other_benchmark_is_refused(capsys, flags):
    assert main(["bench", *flags]) == 2
    assert flags[1] in capsys.readouterr().err


def test_a_contestant_that_fails_is_reported_by_its_error():
    with pytest.raises(train.Failure, match="n_embd"):
        train._in_fresh_process("tfgpt", "train_ours", work(sizes=TINY | {"n_head": 3}))


def test_tokens_are_fixed_and_words_are_as_frequent_as_zipf_says():
    first, again = work().tokens(), work().tokens()
    np.testing.assert_array_equal(first, again)
    assert first.shape == (1 + 3 + 6, 3, 17) and first.dtype == np.int32 and first.max() < 65
    counts = np.bincount(work(steps_per_call=2000).tokens().ravel(), minlength=65)
    expected = 1 / (np.arange(65) + 2.7)
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.005)


def test_calls_are_timed_without_the_two_that_warm_up(monkeypatch):
    clock = iter([0, 9, 9, 12, 12, 15, 15, 21])  # 9 s compiling, then 3 s, 3 s and 6 s for three steps each
    monkeypatch.setattr("tfgpt.benchmarks.training_work.time.perf_counter", lambda: next(clock))
    calls = []

    def call(ids, labels, first):
        np.testing.assert_array_equal(ids[..., 1:], labels[..., :-1])
        calls.append((len(ids), first))
        return [1.0] * len(ids)

    found = work().timed(call)
    assert calls == [(1, 0), (3, 1), (3, 4), (3, 7)] and len(found["losses"]) == 10
    assert found["seconds_per_step"] == [1.0, 2.0] and found["compile_s"] == 7.5


def test_the_summary_is_the_median_over_all_calls_of_all_runs():
    runs = [
        {"seconds_per_step": [1.0, 2.0], "peak_flops": 1e9, "compile_s": 3.0, "peak_bytes": 5e6, "losses": [4.0], "with": ""},
        {"seconds_per_step": [4.0], "peak_flops": 2e9, "compile_s": 5.0, "peak_bytes": 7e6, "losses": [4.0], "with": ""},
    ]  # fmt: skip
    found = train._summary(runs, work(), flops_per_token=1e7)
    assert (found["tokens_per_s"], found["lowest"], found["highest"]) == (24.0, 12.0, 48.0)
    assert (found["gflops_per_s"], found["of_matrix_peak"]) == (0.2, 0.12)
    assert (found["compile_s"], found["peak_mb"]) == (4.0, 7)


def test_peak_memory_is_of_this_process_not_of_its_parent():
    held = np.ones(40_000_000)  # 320 MB, which a child must not be charged with
    code = "from tfgpt.benchmarks.training_work import peak_bytes; print(peak_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout)
    assert peak_bytes() >= held.nbytes and 5e6 < child < 200e6


def test_shapes_are_those_they_are_named_after():
    sizes = SHAPES["124M"]
    assert math.prod(sizes[k] for k in ("rows", "n_ctx")) == 1024 and sizes["n_vocab"] == 50257
