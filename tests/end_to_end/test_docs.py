"""Every command in README and docs is run, in order, in a folder that holds what the text speaks of."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile

import pytest
import zstandard

from tests.conftest import ROOT, SHARED
from tests.data.conftest import write_texts
from tfgpt import tokenizers
from tfgpt.data import english

PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
# Run by tests of their own, or by whoever runs this one.
ELSEWHERE = {"./script/quickstart": "tests/end_to_end/test_scripts.py", "./script/test": "this run"}
BROKEN = '{\n  "n_layer": "12",\n  "n_heads": 12\n}\n'
SMALL = [
    f"--set={x}" for x in "tokenizer=byte n_layer=2 n_embd=32 n_ctx=32 max_steps=6 warmup_steps=2 train_steps=3".split()
]
ARTICLE = "<html><head><title>{0}</title></head><body><nav>Home</nav><article><h1>{0}</h1>{1}</article></body></html>"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with texts, an archive of HTML, the vocabulary and the repository's own files."""
    write_texts(tmp_path / "my_texts", 40)
    lines = "\n".join(json.dumps({"text": f"note {n} " * 30}) for n in range(20))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "notes.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tinyshakespeare.txt").write_text("To be, or not to be.\n" * 600)
    (tmp_path / "broken.json").write_text(BROKEN)
    said = [{"sender": s, "audience": a, "text": f"{n} from {s}"} for n in range(40) for a in "xyz" for s in ("Ada", a)]
    (tmp_path / "my_chat.jsonl").write_text("\n".join(map(json.dumps, said)))
    if (SHARED / "encoder" / "encoder.json").exists():
        shutil.copytree(SHARED / "encoder", tmp_path / "encoder")
    else:
        texts = (text for _, text in english.documents())
        tokenizers.train_bpe(texts, 2000).save(tmp_path / "encoder")
    with tarfile.open(tmp_path / "RS_2017-04_data.tar.xz", "w:xz") as archive:
        for number in range(3):
            body = "".join(
                f"<p>Sentence {n} of article {number} says that something happened somewhere.</p>" for n in range(30)
            )
            page = ARTICLE.format(f"Article {number}", body).encode()
            member = tarfile.TarInfo(f"{number:05}-page.html")
            member.size = len(page)
            archive.addfile(member, io.BytesIO(page))
    for name in ("main.py", "download_model.py", "datasets", "model_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def run(command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if words[:3] == ["tfgpt", "download", "encoder"]:
        words += ["--from_dir", "encoder", "--output", "fetched"]  # the same command, without a network
    if words[:2] == ["python", "main.py"] or words[:2] in (["tfgpt", "train"], ["tfgpt", "check"]):
        words += SMALL  # the same command, with a model that trains in seconds
    if words[:3] == ["tfgpt", "bench", "input"]:
        words += ["--tokens", "20000", "--seconds", "0.02", "--repeats", "1"]
    if words[:3] == ["tfgpt", "bench", "serve"]:
        words += ["--shape", "S", "--seconds", "1", "--repeats", "1", "--peers", "none"]
    if words[0] == "python":
        words[0] = sys.executable
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page(page, home):
    commands = [
        line for block in blocks(page, "sh") for line in block.splitlines() if line and not line.startswith("#")
    ]
    for command in commands:
        if command in ELSEWHERE:
            continue
        if command.startswith("tfgpt download encoder") and not (SHARED / "encoder" / "encoder.json").exists():
            continue  # the files of the stand-in are not GPT-2's, and the download would rightly refuse them
        done = run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if command.startswith("tfgpt data check"):
            assert "fault" not in done.stdout.replace('"faults": []', "")


@pytest.mark.parametrize("page", PAGES)
def test_every_session_that_is_shown_happens(page, home):
    for block in blocks(page, "console"):
        first, *expected = block.splitlines()
        done = run(first.removeprefix("$ "))
        assert (done.stdout + done.stderr).splitlines() == expected


def test_every_link_of_the_docs_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8")):
            if not target.startswith("https://"):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_commands_named_in_the_middle_of_a_sentence_exist():
    """`tfgpt VERB` in running text names a verb that there is."""
    from tfgpt.cli import VERBS

    for page in PAGES:
        for verb in re.findall(r"`(?:\./)?tfgpt ([a-z]+)", (ROOT / page).read_text("utf-8")):
            assert verb in VERBS, f"{page}: {verb}"
