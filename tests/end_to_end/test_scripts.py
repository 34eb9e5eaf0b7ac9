"""The scripts at the top of the repository and the installed command, as a person runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data.conftest import contents, write_texts
from tfgpt.cli import VERBS
from tfgpt.data import ledger


def run(*words, cwd, **environment) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **environment}
    return subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True, timeout=300, env=settings)


def tfgpt(*words, cwd, **environment) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "tfgpt", *words, cwd=cwd, **environment)


@pytest.mark.slow
def test_demo_goes_the_whole_way_and_prints_the_next_command(tmp_path):
    """What ./script/quickstart runs once the environment is there; only the model is smaller."""
    small = [f"--set={key}" for key in ("max_steps=40", "train_steps=20", "n_layer=1", "n_embd=32", "n_ctx=32")]
    done = tfgpt("demo", "--output", tmp_path / "demo", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    known = ledger.read(tmp_path / "demo" / "data")
    assert known.tokenizer["n_vocab"] == 4096 and known.totals("eval")["records"] > 5
    assert known.totals("train")["tokens"] > 300_000
    assert "every byte is what it should be" in done.stdout and done.stdout.count("--- text_") == 1
    losses = [float(x) for x in re.findall(r"validation loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 2 and losses[1] < losses[0] < 8.4, "ln 4096 = 8.3: it learns"
    assert "a sample" in done.stdout and (tmp_path / "demo" / "model" / "report.html").stat().st_size > 10_000
    following = done.stdout.split("next: put your own text in a folder and run\n")[1].strip()
    write_texts(tmp_path / "mine", 10)
    command = re.sub(r"^(tfgpt|\S+ -m tfgpt|\S+/tfgpt) ", f"{sys.executable} -m tfgpt ", following)
    assert " train --model my_text --set text=YOUR_FOLDER " in command
    shorter = (
        command.replace("YOUR_FOLDER", "mine")
        + " --set tokenizer=byte --set max_steps=4 --set warmup_steps=1 --set n_layer=1"
    )
    again = run(*shorter.split(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    again = tfgpt("demo", "--output", tmp_path / "demo", *small, cwd=tmp_path)
    assert again.returncode == 0 and "this run is complete: step 40 of 40" in again.stdout


@pytest.fixture
def clone(tmp_path) -> Path:
    """The scripts in a folder of their own, beside a stand-in for Python that notes what pip is asked to do."""
    folder = tmp_path / "a clone with spaces"
    folder.mkdir()
    for part in ("script", "setup.py", "constraints.txt"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(folder)], check=True)
    fake = tmp_path / "fake python"
    fake.write_text(
        f"""#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo made >>"{tmp_path}/log" ;;
*"-m pip"*) echo "pip $*" >>"{tmp_path}/log" ;;
"-m "*) echo "run $*" ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""
    )
    fake.chmod(0o755)
    return folder


def log(clone) -> str:
    path = clone.parent / "log"
    text = path.read_text() if path.exists() else ""
    path.write_text("")
    return text


@pytest.mark.parametrize("script", ["quickstart", "test", "guard"])
def test_scripts_install_once_and_run_from_anywhere(script, clone):
    (clone.parent / "link").symlink_to(clone / "script" / script)
    python = {"PYTHON": str(clone.parent / "fake python")}
    first = run(clone.parent / "link", "--flag", cwd="/", **python)
    assert first.returncode == 0, first.stderr
    assert "installing" in first.stderr and "run -m" in first.stdout and "--flag" in first.stdout
    installs = log(clone)
    assert "made" in installs and "constraints.txt" in installs and ("[test]" in installs) == (script == "test")
    second = run(clone / "script" / script, cwd="/", **python)
    assert second.returncode == 0 and second.stderr == "" and log(clone) == ""
    (clone / "setup.py").write_text((clone / "setup.py").read_text() + "\n# changed\n")
    assert "installing" in run(clone / "script" / script, cwd="/", **python).stderr and "made" not in log(clone)


def test_a_killed_installation_is_made_anew(clone):
    python = {"PYTHON": str(clone.parent / "fake python")}
    environment = clone / "script" / "environment"
    assert run(environment, cwd="/", **python).returncode == 0
    log(clone)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (clone / ".venv" / ".tfgpt-unfinished").write_text(f"{dead.pid}\n")
    again = run(environment, cwd="/", **python)
    assert again.returncode == 0 and "made" in log(clone)
    assert not (clone / ".venv" / ".tfgpt-unfinished").exists()


def test_a_python_that_was_asked_for_and_does_not_suit_is_an_error(clone):
    done = run(clone / "script" / "environment", cwd="/", PYTHON="/nonexistent/python")
    assert done.returncode == 2 and "PYTHON=/nonexistent/python" in done.stderr and not (clone / ".venv").exists()


def test_help_is_instant_and_every_verb_ends_with_an_example(tmp_path):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        done = tfgpt("--help", cwd=tmp_path)
        times.append(time.perf_counter() - started)
        assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)
    assert min(times) < 0.3
    for verb in VERBS:
        text = tfgpt(verb, "--help", cwd=tmp_path).stdout
        assert re.search(r"\nexample:\n+  (tfgpt|python) [^\n]+(\n  [^\n]+)*\n$", text), verb
        assert "--debug" in text


def test_help_and_config_never_import_tensorflow(tmp_path):
    script = (
        "import sys, importlib; from tfgpt.cli import VERBS, main\n"
        "for verb in VERBS: importlib.import_module(f'tfgpt.cli.{verb}')\n"
        "main(['config', 'show', '117M'])\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules), 'heavy import'"
    )
    done = run(sys.executable, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["nonsense"], 2, 'unknown verb "nonsense"'),
        (["encoed"], 2, '"encode"'),
        (["encode"], 2, "required"),
        (["encode", "nowhere", "--output", "out", "--tokenizer", "byte"], 2, "there is no file or folder nowhere"),
        (["encode", ".", "--output", "out", "--tokenizer", "gtp2"], 2, '"gpt2"'),
        (["data", "check", "nowhere"], 2, "tfgpt encode"),
        (["encode", "a.txt", "--output", "out", "--eval_fraction", "1.5"], 2, "below 1"),
    ],
)
def test_mistakes_get_one_clear_report_and_leave_nothing_behind(words, code, said, tmp_path):
    (tmp_path / "a.txt").write_text("text " * 100)
    done = tfgpt(*words, cwd=tmp_path, TFGPT_CACHE=str(tmp_path / "cache"))
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt"}


def test_debug_shows_the_traceback(tmp_path):
    done = tfgpt("data", "check", "nowhere", "--debug", cwd=tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_the_seeds_script_runs_from_anywhere_without_installation(tmp_path):
    texts = write_texts(tmp_path / "parsed", 12)
    from tfgpt import tokenizers

    tokenizers.train_bpe([p.read_text("utf-8") for p in texts.rglob("*.txt")], 300).save(tmp_path / "encoder")
    script = ROOT / "datasets" / "openwebtext" / "create_tfrecords.py"
    done = run(
        sys.executable, script, "--base_dir", "parsed", "--output_dir", "out", "--encoder_path", "encoder",
        "--files_per", "5", "--processes", "2", "--log_dir", "logs", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shards = sorted(p.name for p in (tmp_path / "out").glob("*.tfrecords"))
    assert shards == [f"openwebtext-newspaper_{n}.tfrecords" for n in range(3)]
    assert ledger.read(tmp_path / "out").rules["split"] == "none"


def test_a_closed_pipe_is_no_error(tmp_path):
    write_texts(tmp_path / "texts", 30)
    assert tfgpt("encode", "texts", "--tokenizer", "byte", "--output", "out", cwd=tmp_path).returncode == 0
    shell = f"{sys.executable} -m tfgpt data show out --samples 30 | head -1"
    done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("train:") and done.stderr == ""


def test_no_terminal_and_a_plain_locale(tmp_path):
    (tmp_path / "a.txt").write_text("naïve “text” — with marks\n" * 50, encoding="utf-8")
    done = tfgpt(
        "encode",
        "a.txt",
        "--tokenizer",
        "byte",
        "--no_ftfy",
        "--output",
        "out",
        cwd=tmp_path,
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    shown = tfgpt("data", "show", "out", cwd=tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0 and "\x1b" not in shown.stdout + shown.stderr


def test_encoding_the_same_folder_twice_by_command_changes_nothing(tmp_path):
    write_texts(tmp_path / "texts", 10)
    words = ["encode", "texts", "--tokenizer", "bpe:300", "--output", "out"]
    assert tfgpt(*words, cwd=tmp_path).returncode == 0
    before = contents(tmp_path / "out")
    assert tfgpt(*words, cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "out") == before and Path(tmp_path / "out" / "ledger.json").exists()
