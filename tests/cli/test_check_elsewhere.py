"""`tfgpt check --hardware` as a person runs it: without data or machines, with advice that holds."""

from __future__ import annotations

import re

import pytest

from tests.cli.test_check_cli import check, point


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A folder without data, in which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def test_many_devices_without_any(capsys):
    code, out = check(capsys, "117M", "--hardware", "v5p", "--devices", 32, "--set", "precision=auto")
    assert code == 0 and "✗" not in out
    assert "32 × v5p (TPU): 459 TFLOP/s in bfloat16" in point(out, "hardware")
    assert "32 windows = 32 replicas × 1 micro-batch × 1 window" in point(out, "batches")
    assert re.search(r"about [\d.]+ GB of 89\.30 GB on each device", point(out, "memory"))
    shares = [int(share) for share in re.findall(r"ms +(\d+)%  ", point(out, "step"))]
    assert len(shares) == 3 and sum(shares) in (99, 100, 101)
    assert "products reach 40% of the peak" in point(out, "step") and "nothing overlaps" in point(out, "step")
    speed = int(re.search(r"([\d,]+) tokens a second", point(out, "time"))[1].replace(",", ""))
    seconds = float(re.search(r"^! |\S+ +step +([\d.]+) ms", point(out, "step"))[1]) / 1e3
    assert speed == pytest.approx(32 * 1024 / seconds, rel=0.01)
    assert "500,000 steps, 16,384,000,000 tokens: " in point(out, "time")
    assert out.strip().splitlines()[-1].endswith("--set precision=auto --tpu NAME   (there)")


def test_efficiency_is_taken_as_it_is_given(capsys):
    def products(share):
        _, out = check(capsys, "117M", "--hardware", "a100", "--efficiency", share)
        return float(re.search(r"products +([\d.]+) ms", point(out, "step"))[1])

    assert products(0.25) == pytest.approx(2 * products(0.5), rel=0.01)
    code, out = check(capsys, "117M", "--hardware", "a100", "--efficiency", 40)
    assert code == 2 and out == ""


def test_a_batch_that_cannot_be_shared_out_is_a_cross_and_its_fix_works(capsys):
    words = ["117M", "--hardware", "v5e", "--devices", 7]
    code, out = check(capsys, *words)
    assert code == 1 and point(out, "batches").startswith("✗") and "tokens a second" not in out
    code, out = check(capsys, *words, *re.search(r"fix: +(--set train_batch_size=\d+)", out)[1].split())
    assert code == 0 and point(out, "batches").startswith("✓")


def test_what_does_not_fit_is_a_cross_and_its_fix_works(capsys):
    words = ["117M", "--hardware", "t4", "--devices", 4, "--set", "train_batch_size=512"]
    code, out = check(capsys, *words)
    assert code == 1 and point(out, "memory").startswith("✗") and "tokens a second" not in out
    code, out = check(capsys, *words, *re.search(r"this would, with .*: (--set .*)", out)[1].split())
    assert code == 0 and point(out, "memory").startswith("✓")
    code, out = check(capsys, "1.5B", "--hardware", "t4", "--devices", 4)
    assert code == 1 and "every device holds the whole model" in point(out, "memory")


def test_an_exchange_that_dominates_deserves_a_thought(capsys):
    words = ["117M", "--devices", 32, "--set", "precision=bfloat16", "--hardware"]
    code, out = check(capsys, *words, "h100,network=1e9")
    assert code == 0 and point(out, "step").startswith("!") and "the exchange takes longest" in point(out, "step")
    assert "4 machines, each with 1 GB/s to the others" in point(out, "hardware")
    assert out.strip().splitlines()[-1].endswith("--workers HOST:PORT,HOST:PORT,... --worker 0   (there)")
    code, out = check(capsys, *words, "h100,network=1e12,link=1e12", "--set", "train_batch_size=2048")
    assert code == 0 and point(out, "step").startswith("✓") and "most of it are the products" in point(out, "step")


def test_this_machine_and_the_vocabulary(capsys):
    code, out = check(capsys, "quickstart", "--devices", 2)
    assert code == 0 and "2 × this machine (CPU)" in point(out, "hardware") and "measured now" in out
    assert "4,096 ids" in point(out, "vocabulary") and "products reach 60%" in point(out, "step")
    code, out = check(capsys, "shakespeare_char", "--hardware", "t4")
    assert code == 1 and "--set n_vocab=" in point(out, "vocabulary")
    code, out = check(capsys, "shakespeare_char", "--hardware", "t4", "--set", "n_vocab=65")
    assert code == 0 and "float16 are 8 times as fast" in point(out, "hardware")


@pytest.mark.parametrize("words", [["--tpu", "local"], ["--measure"], ["--hardware", "h10"]])
def test_mistakes_of_usage_end_with_2(capsys, words):
    code, out = check(capsys, "117M", "--devices", 2, *words)
    assert code == 2 and out == ""
