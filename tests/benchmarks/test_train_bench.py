"""`tfgpt bench train` as a person types it, on a small shape."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest

from tests.conftest import ROOT
from tfgpt.benchmarks import peaks, peers, train
from tfgpt.benchmarks.processes import Broken, result_of
from tfgpt.benchmarks.training_work import SHAPES, STEPS, Work, peak_bytes
from tfgpt.cli import main

TINY = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_ctx": 16, "n_vocab": 65, "rows": 3}


def work(**keys):
    first = {"sizes": TINY, "precision": "float32", "calls": 2, "steps_per_call": 3, "compiled": False}
    return Work(**(first | {"weights": "", "threads": 1} | keys))


LIMITS = {
    "flops_per_s": {lib: {"float32": 1e12, "bfloat16": 2e12} for lib in ("tensorflow", "torch")},
    "read_bytes_per_s": 1,
}


@pytest.mark.slow
def test_all_sides_do_the_same_work(monkeypatch, capsys):
    """Seven steps of AdamW on the same weights and tokens: the losses of all agree far better than the limit asks."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    others = ["torch", *(["keras-hub"] if peers.installed("keras_hub") else [])]
    monkeypatch.setitem(SHAPES, "S", TINY)
    monkeypatch.setattr(peaks, "measure", lambda precisions, repeats: LIMITS)
    asked = [word for name in others for word in ("--peer", name)]
    assert main(["bench", "train", "--shape", "S", *asked, "--steps", "6", "--repeats", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    (found,) = json.loads(said[-1])["runs"]
    assert found["steps"] == 5 and list(found["results"]) == ["tfgpt", *others]
    ours = found["results"]["tfgpt"]
    assert ours["lowest"] <= ours["tokens_per_s"] <= ours["highest"] and ours["peak_mb"] > 100
    for name in others:
        theirs, beside = found["results"][name], found["beside"][name]
        assert beside["losses_differ"] < 1e-4
        assert beside["x_speed"] == pytest.approx(ours["tokens_per_s"] / theirs["tokens_per_s"], rel=0.01)
        assert any(f"x as fast as {name}" in line for line in said)


def figures(seconds, losses=(4.0, 3.0)):
    found = {"seconds_per_step": [seconds], "peak_bytes": 10**9, "compile_s": 1.0, "losses": list(losses), "with": "it"}
    return found | {"flops_per_token": 1e9}


@pytest.fixture
def canned(monkeypatch):
    """No processes: what each contestant is asked for, in order; ours takes 1 s a step, every peer 2 s."""
    asked = []

    def answer(module, given, *, threads):
        asked.append((module, given["compiled"], given["precision"], given["sizes"]["n_ctx"]))
        return figures(1.0 if module == "train_ours" else 2.0)

    monkeypatch.setattr(train, "result_of", answer)
    monkeypatch.setattr(peaks, "measure", lambda precisions, repeats: LIMITS)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "keras_hub" else object())
    return asked


def test_all_shapes_precisions_and_peers_in_turn(canned, capsys):
    words = ["--shape", "all", "--precision", "all", "--peer", "all", "--repeats", "2"]
    assert main(["bench", "train", *words]) == 0
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    order = [(run["shape"], run["precision"]) for run in found["runs"]]
    assert order == [(shape, precision) for shape in "SML" for precision in ("float32", "bfloat16")]
    turn = [("train_ours", False), ("train_torch", True), ("train_torch", False)]
    assert [entry[:2] for entry in canned] == turn * 2 * 6  # alternating, not one contestant after the other
    assert "without keras-hub: it needs keras-hub, which is not installed" in said and "keras-hub" in found["left_out"]
    run = found["runs"][0]
    assert run["beside"]["torch"]["x_speed"] == 2.0
    # 768 tokens a second of 1e9 FLOP each, of a peak of 1e12
    assert run["results"]["tfgpt"]["tokens_per_s"] == 768 and run["results"]["tfgpt"]["of_matrix_peak"] == 0.768


def test_a_peer_whose_library_hardly_multiplies_a_precision_here_is_not_waited_for(canned, monkeypatch, capsys):
    slow = {library: dict(rates) for library, rates in LIMITS["flops_per_s"].items()}
    slow["torch"]["bfloat16"] = 2e9
    monkeypatch.setattr(peaks, "measure", lambda precisions, repeats: LIMITS | {"flops_per_s": slow})
    assert main(["bench", "train", "--shape", "S", "--precision", "all", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    exact, half = json.loads(said.splitlines()[-1])["runs"]
    assert set(exact["results"]) == {"tfgpt", "torch.compile"} and set(half["results"]) == {"tfgpt"}
    assert "without torch.compile in bfloat16: 2.0 GFLOP/s is all that it multiplies here" in said


def test_124m_is_l(canned, capsys):
    assert main(["bench", "train", "--shape", "124M", "--shape", "L", "--peer", "none", "--repeats", "1"]) == 0
    assert canned == [("train_ours", False, "float32", 1024)]


def test_a_peer_that_fails_costs_the_others_nothing_unless_it_was_asked_for(canned, monkeypatch, capsys):
    def answer(module, given, *, threads):
        if given["compiled"]:
            raise Broken("no compiler")
        return figures(1.0)

    monkeypatch.setattr(train, "result_of", answer)
    assert main(["bench", "train", "--shape", "S", "--peer", "all", "--repeats", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["runs"][0]["results"]) == {"tfgpt", "torch"}
    assert found["left_out"]["torch.compile, S float32"] == "no compiler"
    assert main(["bench", "train", "--shape", "S", "--peer", "torch.compile", "--repeats", "1"]) == 1
    assert "apt install g++" in capsys.readouterr().err


def test_losses_that_differ_are_no_result(canned, monkeypatch, capsys):
    losses = iter([(4.0, 3.0), (4.0, 3.2)])
    monkeypatch.setattr(train, "result_of", lambda *args, **keys: figures(1.0, next(losses)))
    assert main(["bench", "train", "--shape", "S", "--peer", "torch", "--repeats", "1"]) == 1
    assert "did not do the same work" in capsys.readouterr().err


def test_a_peer_whose_loss_is_no_number_has_not_done_the_work(canned, monkeypatch, capsys):
    losses = iter([(4.0, 3.0), (4.0, math.nan)])
    monkeypatch.setattr(train, "result_of", lambda *args, **keys: figures(1.0, next(losses)))
    assert main(["bench", "train", "--shape", "S", "--peer", "torch", "--repeats", "1"]) == 1


@pytest.mark.parametrize("missing", [["torch"], ["transformers"], ["torch", "transformers"]])
def test_a_missing_peer_is_named_with_the_command_that_installs_it(monkeypatch, capsys, missing):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name in missing else object())
    assert main(["bench", "train"]) == 2
    said = capsys.readouterr().err
    assert " and ".join(missing) in said and "pip install torch transformers" in said and "nearest: none" in said


@pytest.mark.parametrize("flags", [["train", "--mb", "3"], ["encode", "--shape", "S"], ["nothing"], []])
def test_a_flag_of_another_benchmark_is_refused(capsys, flags):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *flags])
    assert ended.value.code == 2 and (flags[1:] or ["WHAT"])[0] in capsys.readouterr().err


def test_a_contestant_that_fails_is_reported_by_its_error():
    with pytest.raises(Broken, match="n_embd"):
        result_of("train_ours", asdict(work(sizes=TINY | {"n_head": 3})), threads=1)


@pytest.mark.parametrize("library", ["tensorflow", "torch"])
def test_a_peak_is_about_what_numpy_can_do(library):
    pytest.importorskip(library) if library == "torch" else None
    found = result_of("peaks_of", {"library": library, "precisions": ["float32"], "threads": 2}, threads=2)
    a = np.ones((1024, 1024), np.float32)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    assert 0.02 < found["float32"] / (2 * 1024**3 / min(times)) < 50


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
        {"seconds_per_step": [1.0, 2.0], "compile_s": 3.0, "peak_bytes": 5e6, "losses": [4.0], "with": ""},
        {"seconds_per_step": [4.0], "compile_s": 5.0, "peak_bytes": 7e6, "losses": [4.0], "with": ""},
    ]
    found = train._summary(runs, work(), 1e7, 2e9)
    assert (found["tokens_per_s"], found["lowest"], found["highest"]) == (24.0, 12.0, 48.0)
    assert (found["gflops_per_s"], found["of_matrix_peak"]) == (0.2, 0.12)
    assert (found["compile_s"], found["peak_mb"]) == (4.0, 7)


def test_peak_memory_is_of_this_process_not_of_its_parent():
    held = np.ones(40_000_000)  # 320 MB, which a child must not be charged with
    code = "from tfgpt.benchmarks.training_work import peak_bytes; print(peak_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout)
    assert peak_bytes() >= held.nbytes and 5e6 < child < 200e6


def test_shapes_are_those_they_are_named_after():
    assert SHAPES["124M"] is SHAPES["L"] and list(STEPS) == ["S", "M", "L"]
    sizes = SHAPES["L"]
    assert math.prod(sizes[k] for k in ("rows", "n_ctx")) == 1024 and sizes["n_vocab"] == 50257
