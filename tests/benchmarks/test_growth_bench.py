"""`tfgpt bench growth`: its points, that none is lost or measured twice, and the page it fills."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from tests.conftest import ROOT
from tfgpt.benchmarks import growth, growth_points, growth_tables
from tfgpt.benchmarks.growth_points import AXES, MIDDLE, Point, axes
from tfgpt.benchmarks.processes import Broken, result_of
from tfgpt.cli import bench, main

FOUND = {"lowest": 9.0, "highest": 11.0, "steps": 3, "peak_mb": 100, "import_s": 1.0, "build_s": 2.0, "compile_s": 3.0}


@pytest.fixture
def canned(monkeypatch, tmp_path):
    """No processes: what was asked for; a context of 4,096 tokens does not fit."""
    asked = []

    def answer(module, work, *, threads):
        asked.append((work["sizes"], work["local"]))
        if work["sizes"]["n_ctx"] == 4096 and not work["local"]:
            raise Broken("no memory")
        return FOUND | {"tokens_per_s": 10.0 * work["sizes"]["n_layer"], "parameters": 10**6}

    monkeypatch.setattr(growth, "result_of", answer)
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path))
    return asked


def test_every_axis_changes_one_thing_and_has_the_middle():
    for quick in (False, True):
        for name, axis in axes(quick=quick, only=None).items():
            assert MIDDLE in dict(axis).values(), name
            changed = {key for _, point in axis for key in MIDDLE.sizes if point.sizes[key] != MIDDLE.sizes[key]}
            changed -= {"n_head"} if name == "width" else {"rows"} if name == "n_ctx" else set()
            assert len(changed) == 1
            assert all(point.n_embd % point.sizes["n_head"] == 0 for _, point in axis)
    contexts = axes(quick=False, only=["n_ctx"])["n_ctx"]
    assert {point.tokens for _, point in contexts} == {8192} and max(point.n_ctx for _, point in contexts) == 8192
    assert set(AXES["n_ctx"][1]) < set(AXES["n_ctx"][0])


def test_longer_contexts_cost_more_and_local_attention_less():
    dense, local = Point(n_ctx=8192, rows=1), Point(n_ctx=8192, rows=1, local=True)
    assert dense.cost > local.cost == MIDDLE.cost


def test_no_point_is_measured_twice_and_none_is_lost(canned, tmp_path, capsys):
    words = ["bench", "growth", "--quick", "--only", "n_ctx,n_layer"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert len(canned) == 5 + 2  # the middle is on both axes
    assert re.search(r" 1 of 7  n_ctx 256 +\d+:\d\d left +60 tokens/s", said) and "failed: no memory" in said
    assert (
        "| 4,096 | | could not be measured |" in said and "| 12 | 1.0 | 120 (9, 11) | 100 | 1.0 | 2.0 | 3.0 |" in said
    )
    assert json.loads(said.splitlines()[-1])["results"]["n_layer 12"]["tokens_per_s"] == 120.0
    del canned[:]
    assert main(words) == 0  # what failed is tried again, and nothing else
    assert [sizes["n_ctx"] for sizes, _ in canned] == [4096]
    assert "6 of 7 points are known" in capsys.readouterr().out
    del canned[:]
    assert main([*words, "--precision", "bfloat16"]) == 0 and len(canned) == 7
    del canned[:]
    assert main([*words, "--anew"]) == 0 and len(canned) == 7


def test_what_was_measured_before_an_end_is_kept(canned, monkeypatch, tmp_path, capsys):
    answer = growth.result_of

    def ended(module, work, *, threads):
        if len(canned) == 2:
            raise KeyboardInterrupt
        return answer(module, work, threads=threads)

    monkeypatch.setattr(growth, "result_of", ended)
    assert main(["bench", "growth", "--quick", "--only", "batch", "--points", str(tmp_path / "p.jsonl")]) == 130
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(growth, "result_of", answer)
    assert main(["bench", "growth", "--quick", "--only", "batch", "--points", str(tmp_path / "p.jsonl")]) == 0
    assert len(canned) == 3


def test_other_code_is_measured_anew(canned, monkeypatch):
    assert main(["bench", "growth", "--quick", "--only", "batch"]) == 0
    monkeypatch.setattr(growth, "_code", lambda: "other")
    assert main(["bench", "growth", "--quick", "--only", "batch"]) == 0
    assert len(canned) == 6


def test_tables_and_picture_go_into_a_page(canned, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- growth -->\nold\n<!-- /growth -->\nend\n")
    drawn = ["--output", str(tmp_path / "images" / "g.png")]
    (tmp_path / "images").mkdir()
    assert main(["bench", "growth", "--quick", "--into", str(page), *drawn]) == 0
    text = page.read_text()
    assert (
        text.startswith("# Title\n<!-- growth -->\n") and text.endswith("<!-- /growth -->\nend\n") and "old" not in text
    )
    assert text.count("\n|---|") == len(AXES) and "](images/g.png)" in text
    assert all(f"| {title} |" in text for title in growth_tables.TITLES.values())
    with image.open(tmp_path / "images" / "g.png") as picture:
        assert picture.width > 1000
    assert main(["bench", "growth", "--quick", "--into", str(tmp_path / "images" / "g.png")]) != 0
    del canned[:]
    page.write_text("no place")
    assert main(["bench", "growth", "--into", str(page)]) == 2 and not canned  # said before anything is measured


def test_an_unknown_axis_is_named(capsys):
    assert main(["bench", "growth", "--only", "widht"]) == 2
    assert 'nearest: "width"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_point_is_a_process_that_trains():
    point = Point(n_layer=1, n_embd=64, n_ctx=32, n_vocab=64, rows=2, local=True)
    work = {"sizes": point.sizes, "local": True, "span": 16, "seconds": 0.01, "precision": "float32"}
    found = result_of("growth_ours", work, threads=1)
    matrices = 12 * 64 * 64 + 13 * 64 + 64 * 64 + 32 * 64 + 2 * 64
    assert found["parameters"] == matrices and found["steps"] >= 3
    assert found["lowest"] <= found["tokens_per_s"] <= found["highest"]
    assert min(found[key] for key in ("import_s", "build_s")) > 0 and found["peak_mb"] > 100
    assert set(growth_tables.KEYS) - {"date"} <= set(found)


def test_every_bench_command_of_the_page_is_one():
    """The long ones are not run by the page's own test; each has tests of its own that run it small."""
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    lines = re.findall(r"^tfgpt bench (.*)$", page, re.M)
    assert len(lines) >= 6
    for line in lines:
        parser.parse_args(line.split())
    for name in re.findall(r"`tfgpt bench (\w+)`", page):
        assert name in bench.ACTIONS
    for mark in ("growth", "report"):
        assert page.count(f"<!-- {mark} -->\n") == page.count(f"<!-- /{mark} -->\n") == 1
    assert min(AXES["n_ctx"][0]) >= growth_points.SPAN
