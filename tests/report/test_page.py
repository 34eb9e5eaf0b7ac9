"""The HTML page and the picture: one offline file, whatever the run holds; nothing in the data becomes markup."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from tfgpt import report
from tfgpt.errors import UserError
from tfgpt.report.script import JS

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>&amp;"\''
VOID = {"meta", "br", "input", "img", "path", "circle"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps texts, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.texts, self.data = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script" and text.startswith("["):
            self.data = json.loads(text)
        self.texts.append(text)

    def paths(self, look: str) -> list[str]:
        return [a["d"] for tag, a in self.tags if tag == "path" and look in a.get("class", "").split()]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(tmp_path, *runs) -> Page:
    output = tmp_path / "out.html"
    report.write([str(run.folder) for run in runs], str(output))
    text = output.read_text("utf-8")
    # Offline: nothing is loaded from anywhere.
    assert not re.search(r"https?:|@import|url\(|<link|\bsrc=[^x]|//cdn", text)
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert not [a for tag, attributes in found.tags for a in attributes if a.startswith("on")]
    assert "nan" not in re.findall(
        r"[a-z]+", " ".join(d for look in ("raw", "smooth", "dots", "points") for d in found.paths(look))
    )
    return found


def full(run, steps=100, floor=2):
    run.start()
    for step in range(10, steps + 1, 10):
        run.train(step, [floor + 8 / (s + 1) for s in range(step - 10, step)])
        if step % 50 == 0:
            run.eval(step, 2.1 + 5 / step)
            run.line("sample", step, prompt="The ", text="The cat & the <b>hat</b>")
    return run


def test_a_whole_run_shows_its_numbers(new_run, tmp_path):
    run = full(new_run())
    run.line("rollback", 100, to=90, why="the loss jumped", skipped=[90, 100])
    run.train(100, [2.0] * 10)
    run.eval(100, 2.15)
    run.line("save_failed", 100, what="No space left on device")
    run.line("stop", 100, why="done")
    page = page_of(tmp_path, run)
    for words in ("finished", "2.1500", f"{math.exp(2.15):.4g}", "0.8600", "6.4k", "123.5k", "50.0 %", "data positions 90 to 100",
                  "No space left on device", "the <b>hat</b>", "n_embd", "2 CPU cores"):  # fmt: skip
        assert words in page.text, words
    drawn = [a["class"] for tag, a in page.tags if tag == "figure"]
    assert drawn == ["chart loss tall", "chart lr", "chart norm", "chart rate"]
    plots = [tag for tag, _ in page.tags if tag in ("svg", "title", "desc")][1:]
    assert plots.count("desc") == 18 and len(page.paths("lost")) == 9, "3 axes; the loss in 3 forms"
    data = page.data[0]
    assert data["steps"][-1] == 100 and data["tokens"][-1] == 6400 and data["evals"] == [[50, 2.2], [100, 2.15]]


def test_keys_that_differ_from_their_defaults_come_first(new_run, tmp_path):
    run = new_run()
    run.start(lr=0.125)
    page = page_of(tmp_path, run)
    before, after = page.text.split("keys are as by default")
    shown = before[before.index("Configuration") :]
    assert "lr" in shown and "0.125" in shown and "0.00025" in shown and "n_layer" in shown
    # n_head follows from n_embd and warmup_steps from max_steps: they are defaults, too.
    assert "n_head" not in shown and "warmup_steps" not in shown
    assert "n_head" in after and "warmup_steps" in after


def test_nothing_in_the_data_becomes_markup(new_run, tmp_path):
    run = new_run("<b>mine&amp;")
    run.line(
        "start", 0, config={HOSTILE: HOSTILE, "n_embd": HOSTILE, "n_head": [HOSTILE]}, device=HOSTILE, version=HOSTILE
    )
    run.train(2, [3.0, 2.0])
    run.line("sample", 2, prompt=HOSTILE, text=HOSTILE)
    run.line("note", 2, what=HOSTILE)
    run.line("rollback", 2, to=1, why=HOSTILE)
    run.line("stop", 2, why=HOSTILE)
    page = page_of(tmp_path, run, full(new_run("<b>other")))
    assert not [tag for tag, _ in page.tags if tag == "img"] and page.text.count(HOSTILE) >= 5
    page_of(tmp_path, run)
    # Two runs of one name are called by more of their paths, which may hold the end of a script.
    twins = page_of(tmp_path, full(new_run("a</script>")), full(new_run("b</script>")))
    assert [data["name"] for data in twins.data] == ["a</script>", "b</script>"]


CASES = {
    "no line at all": lambda run: run.raw(""),
    "started": lambda run: run.start(),
    "one step": lambda run: (run.start(), run.train(1, [3.0])),
    "only nan": lambda run: (run.start(), run.train(3, ["NaN"] * 3, lr="NaN", grad_norm=None, tokens_per_second=None)),
    "no start line": lambda run: run.train(5, [3.0] * 5),
    "an evaluation only": lambda run: (run.start(), run.eval(7, 3.0)),
    "zeros": lambda run: (run.start(), run.train(4, [0.0] * 4, lr=0.0, grad_norm=0.0, tokens_per_second=0.0)),
    "huge": lambda run: (run.start(), run.train(4, [1e308, -1e308, 1e30, 3.0], grad_norm=1e308)),
    "strange": lambda run: run.raw('{"event":"start","step":0,"config":[],"device":{"a":1}}\n{"event":"stop","step":3}\n'),
    "late": lambda run: run.train(1_000_005, [3.0] * 5),
    "event storm": lambda run: (run.start(), *[run.line("note", 1, what="x") for _ in range(300)], *[run.start(1) for _ in range(300)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_any_run_has_a_report(case, new_run, tmp_path):
    run = new_run()
    with np.errstate(all="raise", under="ignore"):
        CASES[case](run)
        page = page_of(tmp_path, run)
        page_of(tmp_path, run, full(new_run("other")))
    assert "unfinished" in page.text or case == "strange"


def test_runs_are_laid_over_each_other(new_run, tmp_path):
    runs = []
    for i in range(8):
        run = new_run(f"run_{i}")
        run.start(lr=1e-3 * (i + 1))
        run.train(20, [3.0 + i] * 20)
        run.eval(20, 3.5 + i)
        runs.append(run)
    page = page_of(tmp_path, *runs)
    differing = page.text[page.text.index("What differs") : page.text.index("keys are alike")].split()
    assert "lr" in differing and "0.008" in differing and "n_embd" not in differing
    classes = {a["class"] for tag, a in page.tags if tag == "path" and a.get("class", "").startswith("smooth")}
    assert len(classes) == 8, "every run has a colour, or a colour and a dash, of its own"
    assert [d["name"] for d in page.data] == [f"run_{i}" for i in range(8)]
    boxes = [a["id"] for tag, a in page.tags if tag == "input" and a["type"] == "checkbox"]
    assert boxes == [f"run{i}" for i in range(8)]


def test_a_million_steps_are_read_soon_and_give_a_small_page(new_run, tmp_path):
    run = new_run()
    run.start()
    losses = [3.125] * 100
    text = "".join(
        json.dumps({"event": "train", "step": s, "time": 1.7e9 + s, "losses": losses, "lr": 1e-3, "tokens": 64 * s, "elapsed": s / 7})
        + "\n" for s in range(100, 1_000_001, 100)
    )  # fmt: skip
    run.raw(text)
    began = time.perf_counter()
    json.loads("[" + text.replace("\n", ",")[:-1] + "]")
    parsing = time.perf_counter() - began
    page = page_of(tmp_path, run)
    spent = time.perf_counter() - began - parsing
    assert page.data[0]["steps"][-1] == 1_000_000 and (tmp_path / "out.html").stat().st_size < 300_000
    assert spent < 10 * parsing + 1, "little more than reading the JSON"


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to check the script's grammar")
def test_the_script_is_javascript(tmp_path):
    (tmp_path / "a.js").write_text(JS, "utf-8")
    subprocess.run(["node", "--check", "a.js"], cwd=tmp_path, check=True)


def test_a_picture_holds_the_curves(new_run, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    runs = [full(new_run("a$b_$")), full(new_run("other"), floor=3)]
    runs[0].line("stop", 100, why="signal 15")
    report.write_png([str(run.folder) for run in runs], str(tmp_path / "a.png"))
    pixels = imread(tmp_path / "a.png")[..., :3]  # [height, width, 3]
    assert pixels.shape[1] == 1500
    for color in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (np.abs(pixels * 255 - color).max(-1) < 2).sum() > 2000, "the curve of each run is there"
    for name in ("no line at all", "only nan", "one step", "huge"):
        run = new_run(name)
        CASES[name](run)
        report.write_png([str(run.folder)], str(tmp_path / "b.png"))


def test_a_picture_without_matplotlib_names_the_command(new_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="needs matplotlib") as caught:
        report.write_png([str(full(new_run()).folder)], "a.png")
    assert caught.value.fix == 'pip install "tfgpt[plot]"'


def test_the_report_needs_neither_tensorflow_nor_matplotlib():
    code = "import sys, tfgpt.report; print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
