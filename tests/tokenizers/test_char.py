"""One id a character, and bytes for the rest."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers.char import BLOCK, CharTokenizer


def test_ids_are_the_order_of_the_alphabet():
    tokenizer = tokenizers.train_char(["hello ", "wörld\n", "😀"])
    expected = sorted(set("hello wörld\n😀"))
    assert tokenizer.encode("".join(expected)) == list(range(len(expected)))
    assert (tokenizer.eot, tokenizer.n_vocab) == (len(expected), len(expected) + 1)


def test_shakespeare_has_65_characters(shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    tokenizer = tokenizers.train_char([text])
    stoi = {c: i for i, c in enumerate(sorted(set(text)))}  # nanoGPT's rule
    assert tokenizer.n_vocab == 66
    assert tokenizer.encode(text) == [stoi[c] for c in text]


@given(st.text(min_size=1, max_size=20), st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_fallback_like_one_character_at_a_time(seen, text):
    tokenizer = tokenizers.train_char([seen], bytes=True)
    alphabet = sorted(set(seen))
    expected = []
    for c in text:
        expected += [alphabet.index(c)] if c in alphabet else [len(alphabet) + b for b in c.encode("utf-8")]
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(expected) == text
    assert (tokenizer.eot, tokenizer.n_vocab) == (len(alphabet) + 256, len(alphabet) + 257)


def test_an_unknown_character_is_named_with_its_place():
    tokenizer = CharTokenizer("ab\n")
    for text, position, line, name in [
        ("ab\nbaé", 5, 2, "LATIN SMALL LETTER E WITH ACUTE"),
        ("😀", 0, 1, "GRINNING FACE"),
        ("a\x00é", 1, 1, "U+0000"),
        ("a\ud800", 1, 1, "U+FFFD"),
    ]:
        with pytest.raises(UserError) as error:
            tokenizer.encode(text)
        assert name in error.value.what
        assert error.value.where == f"character {position} of the text, line {line}"
        assert "char+bytes" in error.value.nearest


def test_speed_is_that_of_a_table():
    """More than 50 MB/s: characters are looked up all at once, not one by one."""
    text = "The quick brown fox jumps over the lazy dog.\n" * 200_000
    tokenizer = tokenizers.train_char([text])
    started = time.process_time()
    ids = tokenizer.encode_array(text)
    seconds = time.process_time() - started
    assert len(text) / seconds > 50e6
    assert ids.dtype == np.uint32 and tokenizer.decode(ids[:45]) == text[:45]


@pytest.mark.parametrize("stranger", [BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_blocks_join_without_a_seam(stranger):
    text = "ab\n" * BLOCK
    text = text[:stranger] + "é" + text[stranger:]
    expected = ["\nab".index(c) if c in "\nab" else c for c in text]
    expected[stranger : stranger + 1] = [3 + 0xC3, 3 + 0xA9]
    assert CharTokenizer("\nab", fallback=True).encode(text) == expected
    with pytest.raises(UserError) as error:
        CharTokenizer("\nab").encode(text)
    assert f"character {stranger} of the text" in error.value.where
    split_pair = "a" * (BLOCK - 1) + "\ud83d\ude00"
    assert CharTokenizer("a😀").encode(split_pair) == [0] * (BLOCK - 1) + [1]


@pytest.mark.parametrize("alphabet", ["", "aa", "a\ud800"])
def test_impossible_alphabets(alphabet):
    with pytest.raises(UserError, match="alphabet"):
        CharTokenizer(alphabet)


GOOD = {"format": "tfgpt-char-1", "characters": "ab", "byte_fallback": False, "end_of_text": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "version"),
        ({"characters": ["a"]}, '"characters" must be a str'),
        ({"characters": "aa"}, "each once"),
        ({"byte_fallback": 1}, '"byte_fallback" must be a bool'),
        ({"end_of_text": None}, '"end_of_text" must be a bool'),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, change, words):
    (tmp_path / "char.json").write_text(json.dumps(GOOD | change), encoding="utf-8")
    with pytest.raises(UserError) as error:
        tokenizers.load(tmp_path)
    assert words in error.value.what and "char.json" in error.value.where


def test_no_end_of_text_survives_the_file(tmp_path):
    CharTokenizer("ba", with_eot=False).save(tmp_path / "t")
    again = tokenizers.load(tmp_path / "t" / "char.json")
    assert (again.eot, again.n_vocab, again.encode("ab")) == (None, 2, [1, 0])
