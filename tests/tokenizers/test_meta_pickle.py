"""nanoGPT's meta.pkl: read as it is written, and never run."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers.meta_pickle import read_meta


def meta(characters: str) -> dict:
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_and_its_own_ids(tmp_path, protocol):
    characters = "zyx\n 'é😀" + "".join(map(chr, range(0x4E00, 0x4E00 + 600)))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta(characters), protocol=protocol))
    for path in (tmp_path, tmp_path / "meta.pkl"):
        tokenizer = tokenizers.load(path)
        assert tokenizer.encode("xyz😀") == [2, 1, 0, 7]
        assert (tokenizer.kind, tokenizer.n_vocab, tokenizer.eot) == ("char", len(characters), None)
        assert tokenizer.decode(range(len(characters))) == characters


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused(tmp_path, protocol):
    victim = tmp_path / "made by the pickle"
    data = pickle.dumps({"itos": {0: "a"}, "stoi": {"a": 0}, "vocab_size": Attack(str(victim))}, protocol=protocol)
    with pytest.raises(UserError, match="refused"):
        read_meta(data, where="meta.pkl")
    assert not victim.exists()


def test_a_pickle_that_asks_for_all_memory_is_refused_cheaply():
    # CPython's own unpickler answers this with an array of four thousand million pointers.
    data = b"\x80\x04}r" + struct.pack("<I", 2**32 - 1) + b"."
    with pytest.raises(UserError, match="itos"):
        read_meta(data, where="meta.pkl")


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=400, deadline=None)
def test_damage_is_a_user_error_and_nothing_else(noise, position, value):
    whole = pickle.dumps(meta("abc"))
    flipped = bytearray(whole)
    flipped[position % len(whole)] = value
    for data in (noise, bytes(flipped), whole[: position % len(whole)], b"\x80\x04" + noise):
        try:
            tokenizer = read_meta(data, where="x/meta.pkl")
        except UserError as error:
            assert error.where == "x/meta.pkl"
        else:
            assert tokenizer.decode(range(3)) == tokenizer.alphabet


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "itos"),
        ({"itos": {0: "a"}}, "stoi"),
        ([1], "refused"),
        (7, "not a dictionary"),
        (OrderedDict(meta("ab")), "refused"),
        (meta("ab") | {"vocab_size": 3}, "vocab_size"),
        (meta("ab") | {"itos": {0: "a", 2: "b"}}, "one character each"),
        (meta("ab") | {"itos": {0: "a", 1: "word"}}, "one character each"),
        (meta("ab") | {"stoi": {"a": 1, "b": 0}}, "inverse"),
        (meta(""), "alphabet"),
    ],
)
def test_other_contents_are_explained(content, words):
    with pytest.raises(UserError) as error:
        read_meta(pickle.dumps(content), where="meta.pkl")
    assert words in error.value.what
