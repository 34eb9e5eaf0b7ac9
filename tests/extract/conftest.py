"""Pages with articles and what surrounds them, archives of pages, and engines that misbehave on demand."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

FILLER = (
    "The committee met for hours in the old town hall, and it was clear to all of them that the plan would not be "
    "ready before the end of the year. They said that it had been a long time since so many people came to see them."
)
ENGINES = '''
import os, re, signal, socket, sys, time

def plain(html, language):
    """All text of the page; fast, so that tests of everything else are."""
    return re.sub(r"<[^>]*>", " ", html)

def nothing(html, language):
    return None

def octets(html, language):
    return b"bytes"

def slow(html, language):
    with open(os.environ["PIDS"], "a") as stream:
        stream.write(f"{os.getpid()}\\n")
    time.sleep(0.02)
    return plain(html, language)

def waits(html, language):
    slow(html, language)
    time.sleep(25)

def odd(html, language):
    if "HANG" in html:
        re.match(r"(a+)+$", "a" * 64 + "b")  # in C code, with the interpreter's lock held
    if "CRASH" in html:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "LEAVE" in html:
        sys.exit(3)
    if "QUIT" in html:
        os._exit(7)
    if "MEMORY" in html:
        bytearray(8 << 30)
    if "DEEP" in html:
        return odd(html, language)
    if "NETWORK" in html:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    if "NOISE" in html:
        print("noise on the pipe", flush=True)
        return "read " + repr(sys.stdin.read())
    return plain(html, language)
'''


def make_page(number: int = 0, paragraphs: int = 6) -> bytes:
    """A page as newspapers make them: navigation, an article, a footer."""
    article = "".join(f"<p>Paragraph {k} of story {number}. {FILLER}</p>" for k in range(paragraphs))
    return (
        f"<!doctype html><html><head><title>Story {number}</title><script>var tracker = 'SCRIPT';</script></head><body>"
        "<nav><ul><li><a href='/'>Home</a></li><li><a href='/sport'>Sport</a></li><li><a href='/join'>Subscribe"
        f"</a></li></ul></nav><article><h1>Story {number}</h1>{article}</article>"
        "<footer><a href='/terms'>Terms of service</a> All rights reserved.</footer></body></html>"
    ).encode()


def make_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w", **options) -> Path:
    """A tar archive of `members`, by the standard library."""
    with tarfile.open(path, mode, **options) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def page():
    return make_page


@pytest.fixture
def tar():
    return make_tar


@pytest.fixture
def own_engines(tmp_path, monkeypatch):
    """A folder, made the present one, with a module of engines; gives the module's name."""
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / "pretended_engines.py").write_text(ENGINES, encoding="utf-8")
    monkeypatch.chdir(folder)
    yield "pretended_engines"
    sys.modules.pop("pretended_engines", None)
    while str(folder) in sys.path:
        sys.path.remove(str(folder))
