"""Errors as the user sees them, and on their way between processes."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import pytest

from tfgpt.cli import guarded
from tfgpt.errors import Failure, Interrupted, Problems, UserError, nearest


def test_a_report_names_what_where_nearest_and_fix():
    error = UserError("what", where="here", nearest='"this"', fix="do that")
    assert str(error).split("\n") == ["what", "  where:   here", '  nearest: "this"', "  fix:     do that"]
    assert str(UserError("only what")) == "only what"


def test_many_problems_are_numbered_and_indented():
    text = str(Problems("2 mistakes", [UserError("first", where="line 1"), Failure("second")]))
    assert text.split("\n") == ["2 mistakes", "1. first", "     where:   line 1", "2. second"]


@pytest.mark.parametrize(
    "error",
    [UserError("a", where="b", nearest="c", fix="d"), Failure("a", fix="d"), Problems("h", [UserError("x", fix="y")])],
)
def test_errors_survive_the_way_home_from_a_worker(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.exit_code == error.exit_code


@pytest.mark.parametrize(
    "raised, code, said",
    [
        (UserError("wrong"), 2, "tfgpt: error: wrong"),
        (Failure("broken"), 1, "tfgpt: error: broken"),
        (Interrupted(signal.SIGTERM, "stopped"), 143, "tfgpt: stopped"),
        (KeyboardInterrupt(), 130, "tfgpt: interrupted"),
        (PermissionError(13, "Permission denied", "a/file"), 1, "Permission denied (a/file)"),
        (RuntimeError("a bug"), 1, "--debug"),
    ],
)
def test_every_error_has_its_exit_code_and_no_traceback(raised, code, said, capsys):
    def action():
        raise raised

    assert guarded(action) == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    with pytest.raises(type(raised)):
        guarded(action, debug=True)


def test_nearest_word_keeps_its_own_spelling():
    assert nearest("prettybig", ["117M", "PrettyBig"]) == '"PrettyBig"'
    assert nearest("zzz", ["117M", "PrettyBig"]) == ""


def test_sigterm_ends_a_command_with_its_own_exit_code():
    script = "import os, signal, sys; from tfgpt.cli import guarded\nsys.exit(guarded(lambda: os.kill(os.getpid(), signal.SIGTERM)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 143 and done.stderr == "tfgpt: interrupted\n"


def test_printed_commands_can_be_copied_from_the_screen(tmp_path, monkeypatch):
    from tfgpt import cli

    environment = tmp_path / "a place" / ".venv" / "bin"
    environment.mkdir(parents=True)
    monkeypatch.setattr(cli.sys, "executable", str(environment / "python"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path / "a place")
    assert cli.own_name() == ".venv/bin/python -m tfgpt"
    (environment / "tfgpt").write_text("#!/bin/sh\n")
    (environment / "tfgpt").chmod(0o755)
    assert cli.own_name() == ".venv/bin/tfgpt"
    monkeypatch.chdir("/")
    assert cli.own_name() == f"'{environment}/tfgpt'"
    monkeypatch.setenv("PATH", str(environment))
    assert cli.own_name() == "tfgpt"
