"""`tfgpt extract` and the two scripts of datasets/openwebtext, run as a person runs them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tfgpt.cli import main, own_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "datasets" / "openwebtext"
STORY = "The committee met for hours in the old town hall, and it was clear to all of them that it would not be ready. "
PAGE = (
    "<html><head><title>News</title></head><body><nav><a href='/'>Home</a> <a href='/join'>Subscribe</a></nav><article>"
    + "".join(f"<p>Paragraph {k}. {STORY * 2}</p>" for k in range(6))
    + "</article><footer>All rights reserved</footer></body></html>"
)


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "RS_2017-04_data.tar.xz"
    with tarfile.open(path, "w:xz") as stream:
        for n in range(3):
            info = tarfile.TarInfo(f"{n}-abc.html")
            data = PAGE.encode() if n else b"<html><body></body></html>"
            info.size = len(data)
            stream.addfile(info, io.BytesIO(data))
    return path


def script(name, *arguments, cwd):
    """Run a script with a Python that finds tfgpt nowhere but where the script itself looks for it."""
    hide = (
        "import runpy, sys; sys.argv = sys.argv[1:]; "
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]; "
        f"sys.path[:] = [folder for folder in sys.path if folder not in ('', {str(ROOT)!r})]; "
        "import importlib.util; assert importlib.util.find_spec('tfgpt') is None; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", hide, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_the_verb_keeps_the_article_and_says_what_comes_next(archive, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", str(archive), "--output", "my texts", "--processes", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 texts kept, 1 pages without text, 0 failed" in said
    assert said.endswith(f"next: {own_name()} encode 'my texts' --output data\n")
    text = (tmp_path / "my texts/RS_2017-04/1-abc.txt").read_text(encoding="utf-8")
    assert "Paragraph 5. The committee" in text and "Subscribe" not in text and "rights reserved" not in text


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--max_bytes", "500"), "2 failed: larger than 500 bytes"),
        (("--max_archive_bytes", "4000"), "unpacks to more than 4000 bytes"),
        (("--min_characters", "100000"), "0 texts kept, 3 pages without text"),
        (("--timeout", "60", "--chunk_size", "1", "--language", "de"), "0 failed"),
        (("--engine", "trafilatura"), "2 texts kept, 1 pages without text, 0 failed"),
    ],
)
def test_every_option_does_something(option, said, archive, tmp_path, capsys):
    code = main(["extract", str(archive), "--output", str(tmp_path / "out"), "--processes", "1", *option])
    assert said in capsys.readouterr().out
    assert code == (1 if option[0].startswith("--max") else 0)
    if "--chunk_size" in option:
        journal = (tmp_path / "out/.extract/journal.jsonl").read_text(encoding="utf-8").splitlines()
        assert sum("pages" in json.loads(line) for line in journal) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.tar.xz"], "missing.tar.xz"),
        (["ARCHIVE", "--engine", "newspapr"], 'nearest: "newspaper"'),
        (["ARCHIVE", "--language", "xx"], 'does not know the language "xx"'),
        (["ARCHIVE", "--timeout", "0"], "--timeout 30"),
        (["ARCHIVE", "--processes", "0"], "--processes 1"),
    ],
)
def test_mistakes_end_with_code_2_and_create_nothing(arguments, said, archive, tmp_path, capsys):
    words = [str(archive) if word == "ARCHIVE" else word for word in arguments]
    assert main(["extract", *words, "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_code_1_with_what_could_be_saved(archive, tmp_path, capsys):
    archive.write_bytes(archive.read_bytes()[:-80])
    assert main(["extract", str(archive), "--output", str(tmp_path / "out"), "--processes", "1"]) == 1
    assert f"damaged: {archive}: " in capsys.readouterr().out


def test_the_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["extract", "--help"])
    assert ended.value.code == 0
    assert "tfgpt extract RS_2017-04_data.tar.xz" in capsys.readouterr().out


def test_extract_text_with_the_flags_it_always_had(archive, tmp_path):
    done = script(
        "extract_text.py", "--html_archive", archive.name, "--chunk_size", "2", "--n_procs", "1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "parsed/RS_2017-04").iterdir()) == ["1-abc.txt", "2-abc.txt"]
    done = script("extract_text.py", "--html_archive", "no.tar", "--output_dir", "other", cwd=tmp_path)
    assert done.returncode == 2 and "no.tar" in done.stderr and "Traceback" not in done.stderr


def test_run_newspaper_extract_goes_on_and_leaves_its_list_alone(archive, tmp_path):
    second = tmp_path / "RS_2017-05_data.tar.xz"
    second.write_bytes(archive.read_bytes()[:-80])
    (tmp_path / "files.json").write_text(json.dumps([archive.name, str(second)]), encoding="utf-8")
    before = hashlib.sha256((tmp_path / "files.json").read_bytes()).hexdigest()
    done = script("run_newspaper_extract.py", "--processes", "1", cwd=tmp_path)
    assert done.returncode == 1 and str(second) in done.stdout, done.stderr
    assert len(list((tmp_path / "parsed/RS_2017-04").iterdir())) == 2
    second.write_bytes(archive.read_bytes())
    done = script("run_newspaper_extract.py", "--files", "files.json", "--output_dir", "parsed", cwd=tmp_path)
    assert done.returncode == 0 and "4 texts kept" in done.stdout and "by earlier runs" in done.stdout, done.stderr
    assert hashlib.sha256((tmp_path / "files.json").read_bytes()).hexdigest() == before


@pytest.mark.parametrize("content", [None, "not json", "{}", "[]", "[1]"])
def test_a_list_that_is_none_is_explained(content, tmp_path):
    if content is not None:
        (tmp_path / "files.json").write_text(content, encoding="utf-8")
    done = script("run_newspaper_extract.py", cwd=tmp_path)
    assert done.returncode == 2 and "RS_2017-04_data.tar.xz" in done.stderr and not (tmp_path / "parsed").exists()
