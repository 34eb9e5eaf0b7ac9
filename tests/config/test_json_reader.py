"""The reader against Python's own json module, and the slips it names with their line and column."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.config import json_reader
from tfgpt.errors import UserError

NUMBERS = st.integers(-(2**62), 2**62) | st.floats(
    allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_reads_what_pythons_json_reads(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    document = json_reader.read(text, name="x.json")
    assert document.problems == [] and document.whole
    assert document.value == json.loads(text) == value


@settings(max_examples=300, deadline=None)
@given(st.text("{}[]\",:\\ \n'tfnu0123.eE+-ab/*#N", max_size=40))
def test_accepts_exactly_the_objects_that_json_accepts(text):
    def refuse(word):
        raise ValueError(word)

    def no_twins(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    try:
        legal = isinstance(json.loads(text, parse_constant=refuse, object_pairs_hook=no_twins), dict)
    except (ValueError, AssertionError):
        legal = False
    document = json_reader.read(text, name="x.json")
    assert (document.whole and not document.problems) == legal
    assert legal or document.problems


def test_places_are_the_lines_and_columns_of_keys_and_items():
    text = '{\n  "a": 1,\n  "list": [\n    10,\n    {"b": 2}\n  ]\n}'
    places = json_reader.read(text, name="x").places
    lines = text.split("\n")
    for path, word in {
        ("a",): '"a"',
        ("list",): '"list"',
        ("list", 0): "10",
        ("list", 1): "{",
        ("list", 1, "b"): '"b"',
    }.items():
        line, column = places[path]
        assert lines[line - 1][column - 1 :].startswith(word)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ('{"a": 1,\n}', "a comma with nothing after it", "line 1, column 8"),
        ('{"a": [1, 2,]}', "a comma with nothing after it", "column 12, $.a"),
        ('{"a": 1,, "b": 2}', "two commas", "column 9"),
        ('{"a": 1\n "b": 2}', "a comma is missing here", "line 1, column 8"),
        ('{\n // note\n"a": 1}', "a comment", "line 2, column 2"),
        ('{"a": 1 # note\n}', "a comment", "line 1, column 9"),
        ('{"a": /* note */ 1}', "a comment", "column 7"),
        ("{'a': 1}", "single quotes", "column 2"),
        ("{a: 1}", "the key a has no quotes", "column 2"),
        ('{"a" = 1}', '"=" between', "$.a"),
        ('{"a": 1,\n "a": 2}', 'the key "a" is there twice (first in line 1)', "line 2, column 2, $.a"),
        ('{"a": NaN}', "NaN is not a JSON number", "column 7, $.a"),
        ('{"a": -Infinity}', "-Infinity is not", "$.a"),
        ('{"a": 1e999}', "too large", "$.a"),
        ('{"a": %s}' % ("9" * 5000), "too large", "$.a"),
        ('{"a": 012}', "012 is no JSON value", "$.a"),
        ('{"a": .5}', ".5 is no JSON value", "$.a"),
        ('{"a": True}', "True is not JSON", "$.a"),
        ('{"a": adam}', "adam is no JSON value", "$.a"),
        ('{"a": "C:\\data"}', "\\d is not a JSON escape", "column 10, $.a"),
        ('{"a": "\t"}', "control character U+0009", "$.a"),
        ('{"a": "\\ud800"}', "half a surrogate pair", "$.a"),
        ('{"a": "b', "a string that never ends", "column 7, $.a"),
        ('{"a": "b\n}', "a string that never ends", "line 1, column 7"),
        ('{\n"a": {"b": 1', 'the "{" opened here is never closed', "line 2, column 6"),
        ('{"a": 1} 2', "more text after the end", "column 10"),
        ('{"a"}', 'has no ":"', "$.a"),
        ('{"a": [1}}', 'where a "," or "]" should be', "$.a"),
        ("", "the file is empty", "line 1, column 1"),
        (" \n", "the file is empty", "line 2"),
        ("[1]", "this is a list", "line 1"),
        ("/* ever", "a comment that never ends", "column 1"),
    ],
)
def test_names_the_slip_and_its_place(text, what, where):
    problem = json_reader.read(text, name="my.json").problems[0]
    assert what in problem.what
    assert problem.where.startswith("my.json, line") and where in problem.where
    assert problem.fix


def test_goes_on_after_a_slip_and_keeps_the_values():
    document = json_reader.read('{ // one\n\'a\': True, "b": [1, NaN, 2,], c: "\\q",}', name="x")
    assert document.value == {"a": True, "b": [1, None, 2], "c": "\\q"} and document.whole
    assert len(document.problems) == 8
    assert document.broken == {("b", 1)}


def test_whole_numbers_in_scientific_notation_are_whole():
    value = json_reader.read('{"a": 1e3, "b": 2.0, "c": 1e-4}', name="x").value
    assert value == {"a": 1000, "b": 2, "c": 0.0001} and type(value["a"]) is type(value["b"]) is int


def test_hostile_files_are_bounded():
    started = time.perf_counter()
    assert "nested deeper" in json_reader.read('{"a":' * 100_000, name="x").problems[0].what
    assert len(json_reader.read("{" + "//\n" * 100_000, name="x").problems) == json_reader.MAXIMUM_PROBLEMS
    assert len(json_reader.read(json.dumps({str(n): n for n in range(50_000)}, indent=1), name="x").places) == 50_000
    assert time.perf_counter() - started < 5
    with pytest.raises(UserError, match="too large"):
        json_reader.decode(b" " * (json_reader.MAXIMUM_BYTES + 1), name="x")


def test_encodings():
    assert json_reader.decode('{"a": "é"}'.encode("utf-8-sig"), name="x") == '{"a": "é"}'
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(UserError) as caught:
            json_reader.decode('{"a": 1}'.encode(encoding), name="x.json")
        assert caught.value.fix.startswith("python -c")
    with pytest.raises(UserError) as caught:
        json_reader.decode(b'{\n"a": "\xe9"}', name="x.json")
    assert "0xe9 at offset 8" in caught.value.what and caught.value.where == "x.json, line 2"


def test_the_command_for_utf16_converts_the_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_bytes('{"text": "é"}'.encode("utf-16"))
    with pytest.raises(UserError) as caught:
        json_reader.decode(path.read_bytes(), name=str(path))
    exec(caught.value.fix[len('python -c "') : -1])
    assert json.loads(path.read_text("utf-8")) == {"text": "é"}
