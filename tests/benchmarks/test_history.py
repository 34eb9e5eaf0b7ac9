"""What `tfgpt bench --save` keeps, `tfgpt bench report` shows and script/guard compares."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tfgpt.benchmarks import encode, everything, guard, history, input, pages, past, ratios
from tfgpt.cli import main
from tfgpt.cli.bench import ACTIONS, PARTS

RESULT = {
    "bench": "train",
    "runs": [
        {
            "shape": "S",
            "precision": "float32",
            "results": {
                name: {"tokens_per_s": speed, "lowest": speed - 10, "highest": speed + 10, "of_matrix_peak": 0.5}
                | {"peak_mb": 100, "compile_s": 1.5, "with": "it"}
                for name, speed in (("tfgpt", 200.0), ("torch", 100.0))
            },
            "beside": {"torch": {"x_speed": 2.0, "x_memory": 0.8, "losses_differ": 1e-6}},
        }
    ],
}


def kept(path, x_speed, *, cores=None, date="2026-11-20T10:00:00+00:00", asked=None):
    record = json.loads(json.dumps(RESULT))
    record["runs"][0]["beside"]["torch"]["x_speed"] = x_speed
    machine = history.machine() | ({"cores": cores} if cores else {})
    more = {"asked": asked or {"shape": ["S"]}, "date": date, "machine": machine, "commit": "abc"}
    history.append(path, record | more)


def test_what_is_saved_is_what_was_printed_and_where(monkeypatch, tmp_path, capsys):
    result = {"bench": "input", "results": {"packed": {"x_tf_data": 4.0}}}
    monkeypatch.setattr(input, "run", lambda **keys: print("a table\n" + json.dumps(result)))
    path = tmp_path / "new" / "history.jsonl"
    for _ in range(2):
        assert main(["bench", "input", "--repeats", "2", "--save", str(path)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]) == result and str(path) in said.err
    first, _ = (json.loads(line) for line in path.read_text().splitlines())
    assert {key: first[key] for key in result} == result and first["asked"]["repeats"] == 2
    assert first["machine"]["cores"] == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else True
    assert first["versions"]["python"] == platform.python_version() and "tensorflow" in first["versions"]


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(encode, "run", lambda **keys: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    assert main(["bench", "encode", "--save", str(tmp_path / "file" / "x.jsonl")]) == 2
    assert "--save FILE" in capsys.readouterr().err


def test_the_repository_that_has_a_folder_for_it_keeps_its_own_history(monkeypatch, tmp_path):
    inside = tmp_path / "repository" / "deep"
    inside.mkdir(parents=True)
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(inside)
    (tmp_path / "repository" / ".git").mkdir()
    assert history.place("") == tmp_path / "cache" / "benchmarks" / "history.jsonl"
    (tmp_path / "repository" / "benchmarks").mkdir()
    assert history.place("") == tmp_path / "repository" / "benchmarks" / "history.jsonl"
    assert str(history.place("x.jsonl")) == "x.jsonl"


def test_a_line_that_was_cut_off_costs_no_other(tmp_path, capsys):
    path = tmp_path / "h.jsonl"
    history.append(path, {"bench": "a"})
    with path.open("ab") as file:
        file.write(b'{"bench": "b", "resu')
    history.append(path, {"bench": "c"})
    with path.open("ab") as file:
        file.write(b"[1]\n\xff\n")
    assert [record["bench"] for record in history.read(path)] == ["a", "c"]
    assert "no result in line 2, 4, 5" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_the_commit_is_gits_own_and_marked_when_the_source_was_changed(monkeypatch, tmp_path):
    package = tmp_path / "tfgpt"
    (package / "benchmarks").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(history, "__file__", str(package / "benchmarks" / "history.py"))
    assert history.commit() == ""  # no repository at all
    person = ["-c", "user.name=n", "-c", "user.email=e"]

    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *person, *words], check=True, capture_output=True, text=True)

    git("init", "-q")
    assert history.commit() == ""  # a repository around it that does not know it
    git("add", "tfgpt")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").stdout[:12]
    assert history.commit() == head
    (package / "__init__.py").write_text("x = 1\n")
    assert history.commit() == head + "+"


def test_ratios_are_higher_the_better_and_name_what_they_compare():
    assert ratios.of(RESULT) == {
        "train S float32, share of peak": 0.5,
        "train S float32, speed x torch": 2.0,
        "train S float32, memory of torch / ours": 1.25,
    }
    assert ratios.of({"bench": "shakespeare", "of_their_time": 0.4}) == {
        "shakespeare time of nanoGPT's recipe / ours": 2.5
    }
    assert ratios.of({"bench": "generate", "batch 1": {"x": 2.0}, "threads": 2}) == {"generate batch 1, x": 2.0}
    served = {
        "bench": "serve",
        "shape": "M",
        "4 clients": {"tokens_per_s_x_transformers": 3, "of_each_run": [3]},
        "n": 1,
    }
    assert ratios.of(served) == {"serve M 4 clients, tokens_per_s_x_transformers": 3.0}
    assert ratios.of({"bench": "peaks"}) == {}


def test_the_report_keeps_machines_apart_and_fills_a_page(tmp_path, capsys):
    path, page = tmp_path / "h.jsonl", tmp_path / "page.md"
    for number, x_speed in enumerate((1.0, 1.5, 3.0)):
        kept(path, x_speed, date=f"2026-11-2{number}T00:00:00+00:00")
    kept(path, 9.0, cores=4096, date="2026-11-10T00:00:00+00:00")
    kept(path, 3.5)
    page.write_text("before\n<!-- report -->\nold\n<!-- /report -->\nafter\n")
    assert main(["bench", "report", str(path), "--into", str(page)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "speed x torch" in line]
    assert [line[6:10] for line in lines] == [["3.5", "3", "1.5", "1"], ["9", "2026-11-10", "abc"]]
    written = page.read_text()
    assert written.startswith("before\n<!-- report -->\n") and written.endswith("<!-- /report -->\nafter\n")
    assert "old" not in written and "| train S float32, speed x torch | 3.5 |" in written
    assert "|  | torch | 100 (90, 110) | 50% | 100 | 1.5 | 3.5 | it |" in written
    page.write_text("no marks")
    assert main(["bench", "report", str(path), "--into", str(page)]) == 2
    assert page.read_text() == "no marks" and "<!-- report -->" in capsys.readouterr().err


def test_the_report_is_drawn(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    kept(tmp_path / "h.jsonl", 1.0)
    kept(tmp_path / "h.jsonl", 2.0, date="2026-11-21T00:00:00+00:00")
    assert main(["bench", "report", str(tmp_path / "h.jsonl"), "--output", str(tmp_path / "h.png")]) == 0
    with image.open(tmp_path / "h.png") as picture:
        assert picture.width > 900 and len(picture.convert("RGB").getcolors(10**6)) > 10


def test_an_empty_history_is_no_report(tmp_path, capsys):
    assert main(["bench", "report", str(tmp_path / "none.jsonl")]) == 2
    assert "tfgpt bench train --save" in capsys.readouterr().err


def test_a_page_may_name_its_marks_only_once(tmp_path):
    (tmp_path / "p.md").write_text("<!-- x -->\n<!-- /x -->\n" * 2)
    with pytest.raises(ValueError, match="no place"):
        pages.fill(str(tmp_path / "p.md"), "x", "text")


# The guard


@pytest.fixture
def fresh(monkeypatch):
    """No processes: each benchmark now finds the speed that `found` holds."""
    found = {"x_speed": 2.0, "again": None, "asked": []}

    def answer(words):
        found["asked"].append(words)
        record = json.loads(json.dumps(RESULT))
        second = found["again"] if len(found["asked"]) == 2 else None
        record["runs"][0]["beside"]["torch"]["x_speed"] = second or found["x_speed"]
        return 0, record

    monkeypatch.setattr(everything, "one", answer)
    return found


@pytest.mark.parametrize(("now", "code"), [(2.0, 0), (1.71, 0), (1.69, 1), (5.0, 0)])
def test_the_guard_fails_where_a_ratio_fell_by_more_than_15_percent(tmp_path, fresh, capsys, now, code):
    path, fresh["x_speed"] = tmp_path / "h.jsonl", now
    kept(path, 9.0)  # replaced by a later one of the same flags
    kept(path, 9.0, cores=4096, asked={"shape": ["M"]})  # another machine's
    kept(path, 2.0)
    assert main(["bench", "guard", "--history", str(path)]) == code
    assert fresh["asked"] == [["train", "--shape", "S"]] * (1 + code)
    fallen = json.loads(capsys.readouterr().out.splitlines()[-1])["fallen"]
    assert fallen == (["train S float32, speed x torch"] if code else [])


def test_what_fell_by_chance_is_measured_once_more(tmp_path, fresh):
    kept(tmp_path / "h.jsonl", 2.0)
    fresh |= {"x_speed": 1.0, "again": 2.0}
    assert main(["bench", "guard", "--history", str(tmp_path / "h.jsonl")]) == 0 and len(fresh["asked"]) == 2


def test_the_guard_compares_what_was_recorded_without_measuring_and_never_fails(tmp_path, fresh, capsys):
    path = tmp_path / "h.jsonl"
    assert main(["bench", "guard", "--history", str(path), "--recorded"]) == 0
    assert "nothing to compare" in capsys.readouterr().out
    kept(path, 2.0)
    kept(path, 1.0)
    assert main(["bench", "guard", "--history", str(path), "--recorded"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "speed x torch" in line]
    assert line.split()[-5:] == ["->", "1", "-50", "%", "FELL"] and not fresh["asked"]


def test_the_guard_needs_something_to_compare_with(tmp_path, capsys):
    assert main(["bench", "guard", "--history", str(tmp_path / "none")]) == 2
    assert "--save" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in ACTIONS if name in PARTS])
def test_the_flags_that_were_asked_for_can_be_asked_for_again(name):
    """As the guard does; and `bench all` gives every part its own --repeats."""
    import argparse

    from tfgpt.cli import bench

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    given = parser.parse_args([name, *everything.FLAGS.get(name, []), "--repeats", "7", "--save", "x"])
    again = parser.parse_args([name, *guard.words_of(bench._asked(given))])
    assert bench._asked(again) == bench._asked(given)


def test_the_script_runs_the_guard(tmp_path):
    kept(tmp_path / "h.jsonl", 2.0)
    words = ["-m", "tfgpt", "bench", "guard", "--history", str(tmp_path / "h.jsonl"), "--recorded"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and ": 3" in done.stdout, done.stderr
    assert 'exec "$python" -m tfgpt bench guard "$@"' in (ROOT / "script" / "guard").read_text()


# All of them


def test_all_runs_its_parts_in_turn_and_one_that_fails_ends_no_other(monkeypatch, tmp_path, capsys):
    asked = []

    def one(words):
        asked.append(words)
        return {"encode": (2, None), "train": (1, None)}.get(words[0], (0, {"bench": words[0]}))

    monkeypatch.setattr(everything, "one", one)
    monkeypatch.setattr(everything, "installed", lambda package: package != "ctranslate2")
    path = str(tmp_path / "h.jsonl")
    assert main(["bench", "all", "--only", "peaks,encode,train,generate", "--save", path]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["parts"] == {"peaks": {"bench": "peaks"}, "generate": {"bench": "generate"}}
    assert set(found["left_out"]) == {"encode", "train"}
    assert [words[0] for words in asked] == ["peaks", "encode", "train", "generate"]
    assert all(words[-2:] == ["--save", path] for words in asked)
    assert asked[3][1:-2] == ["--repeats", "1", "--peers", "none"]
    monkeypatch.setattr(everything, "one", lambda words: (2, None))
    assert main(["bench", "all", "--only", "encode"]) == 0  # what is missing was said; nothing broke
    assert main(["bench", "all", "--only", "encoed"]) == 2
    assert 'nearest: "encode"' in capsys.readouterr().err


def test_a_part_that_refuses_has_no_result(tmp_path, capfd):
    assert everything.one(["report", str(tmp_path / "none")]) == (2, None)
    assert "holds no result" in capfd.readouterr().err


def test_series_are_in_the_order_of_the_file():
    found = past.series([RESULT, RESULT])
    assert [len(values) for values in found.values()] == [2, 2, 2]
