"""The article is kept and what surrounds it is gone, whichever library does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfgpt.errors import UserError
from tfgpt.extract import engines

ROOT = Path(engines.__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["newspaper", "trafilatura"])
def test_the_article_is_kept_and_the_rest_is_gone(name, page):
    text = engines.build(name, "en")(page(7).decode())
    for k in range(6):
        assert f"Paragraph {k} of story 7. The committee met for hours" in text
    for noise in ("Subscribe", "Sport", "Terms of service", "All rights reserved", "SCRIPT", "<p>"):
        assert noise not in text


@pytest.mark.parametrize("name", ["newspaper", "trafilatura"])
def test_a_long_article_is_not_cut(name, page):
    text = engines.build(name, "en")(page(1, paragraphs=800).decode())
    assert len(text) > 150_000 and "Paragraph 799 of story 1" in text


@pytest.mark.parametrize("name", ["newspaper", "trafilatura"])
def test_endless_nesting_is_an_error_and_a_page_without_text_is_empty(name):
    engine = engines.build(name, "en")
    with pytest.raises(ValueError, match="nested too deeply"):
        engine("<div>" * 100_000 + "text")
    for nothing in (
        "",
        " \n",
        "<html><body></body></html>",
        "<html><body><img src='http://127.0.0.1:9/a.png'></body></html>",
    ):
        assert engine(nothing) == ""


def test_newspaper_knows_other_languages(page):
    german = (
        page(3)
        .decode()
        .replace("The committee met for hours in the old town hall, and it was", "Der Ausschuss tagte und es war")
    )
    german = german.replace(
        "They said that it had been a long time since so many people came to see them.", "Und sie haben das nicht."
    )
    assert "Der Ausschuss tagte" in engines.build("newspaper", "de")(german)
    with pytest.raises(UserError) as caught:
        engines.build("newspaper", "english")
    assert '"english"' in str(caught.value) and "--language en" in str(caught.value)


def test_a_function_of_the_user(own_engines):
    assert engines.build(f"{own_engines}:plain", "en")("<p>hello</p>") == " hello "
    assert engines.build(f"{own_engines}:nothing", "en")("<p>hello</p>") == ""
    with pytest.raises(TypeError, match="text or None, not bytes"):
        engines.build(f"{own_engines}:octets", "en")("<p>hello</p>")


@pytest.mark.parametrize("name", ["pretended_engines:missing", "no_such_module_at_all:f", ":f", "pretended_engines:"])
def test_a_function_that_is_not_there(name, own_engines):
    with pytest.raises(UserError, match="cannot be imported"):
        engines.build(name, "en")


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(UserError) as caught:
        engines.check_name("newspapr")
    assert caught.value.nearest == '"newspaper"' and "package.module:function" in caught.value.fix


def test_a_missing_package_names_the_command(monkeypatch):
    for name in ("trafilatura", "newspaper"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError) as caught:
            engines.build(name, "en")
        assert caught.value.fix == 'pip install "tfgpt[extract]"'


@pytest.fixture(scope="session")
def newspaper3k(tmp_path_factory) -> Path:
    """The old newspaper, in a folder of its own, ahead of the new one on the path of the processes that ask for it."""
    folder = tmp_path_factory.mktemp("newspaper3k")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    command += ["newspaper3k==0.2.8", "cssselect", "--retries", "1", "--timeout", "15"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if made.returncode:
        pytest.skip(f"newspaper3k cannot be installed: no package registry is reachable ({made.stderr.strip()[-120:]})")
    return folder


@pytest.mark.slow
def test_newspaper3k_works_with_the_same_code(newspaper3k, page, tmp_path):
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl/1.html").write_bytes(page(7))
    (tmp_path / "crawl/long.html").write_bytes(page(8, paragraphs=800))
    (tmp_path / "crawl/deep.html").write_bytes(b"<div>" * 100_000)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(newspaper3k), str(ROOT)])}
    version = subprocess.run(
        [sys.executable, "-c", "import newspaper; print(newspaper.__version__)"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert version.stdout.strip() == "0.2.8"
    done = subprocess.run(
        [sys.executable, "-m", "tfgpt", "extract", "crawl", "--output", "out", "--processes", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "2 texts kept, 0 pages without text, 1 failed" in done.stdout and "nested too deeply" in done.stdout
    text = (tmp_path / "out/crawl/1.txt").read_text(encoding="utf-8")
    assert all(f"Paragraph {k} of story 7. The committee" in text for k in range(6))
    assert "Subscribe" not in text and "All rights reserved" not in text
    assert "Paragraph 799 of story 8" in (tmp_path / "out/crawl/long.txt").read_text(encoding="utf-8")
