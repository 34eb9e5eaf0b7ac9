"""Bytes to text: the encodings of the web and what only pretends to be a page."""

from __future__ import annotations

import codecs

import pytest

from tfgpt.extract.pages import NoPage, decoded

WORDS = "naïve café – “quoted” straße"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (WORDS.encode(), WORDS),
        (codecs.BOM_UTF8 + WORDS.encode(), WORDS),
        (codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le"), WORDS),
        (codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"), WORDS),
        (WORDS.encode("windows-1252"), WORDS),
        (b"", ""),
        (b"x" * 100 + b"\0y", "x" * 100 + "y"),
        (b'<?xml version="1.0" encoding="utf-8"?>\n<html>', "\n<html>"),
    ],
)
def test_without_a_declaration(data, expected):
    assert decoded(data) == expected


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1251", "Привет, мир"),
        ("shift_jis", "日本語の文章"),
        ("gb2312", "中文文章"),
        ("iso-8859-2", "žluťoučký kůň"),
        ("koi8-r", "Привет"),
    ],
)
@pytest.mark.parametrize(
    "form", ['<meta charset="{}">', "<meta http-equiv=Content-Type content='text/html; charset={}'>"]
)
def test_a_declared_encoding_is_believed(encoding, text, form):
    head = form.format(encoding)
    assert decoded((head + text).encode(encoding)) == head + text


def test_valid_utf8_wins_over_a_stale_declaration():
    page = '<meta charset="iso-8859-1">' + WORDS
    assert decoded(page.encode()) == page


def test_latin1_is_read_as_browsers_read_it():
    assert decoded(b'<meta charset="iso-8859-1">\x93quoted\x94 caf\xe9').endswith("“quoted” café")


@pytest.mark.parametrize("name", ["no-such-code", "hex", "rot13", "base64", "undefined", "idna", "zip", "utf-8"])
def test_a_useless_declaration_does_no_harm(name):
    assert decoded(f'<meta charset="{name}">'.encode() + b"caf\xe9").endswith(("café", "caf\ufffd"))


@pytest.mark.parametrize(
    "data", [b"%PDF-1.4 ...", b"\x89PNG\r\n", b"\x1f\x8b\x08 packed twice", bytes(range(256)) * 20]
)
def test_binary_data_is_refused(data):
    with pytest.raises(NoPage, match="binary"):
        decoded(data)
