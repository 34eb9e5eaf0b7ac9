"""What holds for every tokenizer: nothing is lost, nothing is guessed, half a character is never shown."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt import files, tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers.base import well_formed
from tfgpt.tokenizers.byte import ByteTokenizer
from tfgpt.tokenizers.char import CharTokenizer

KINDS = ["bpe", "byte", "char", "char+bytes"]


@pytest.fixture(params=KINDS)
def tokenizer(request, trained):
    alphabet = "".join(sorted("abc 'é😀\n٣"))
    return {
        "bpe": trained,
        "byte": ByteTokenizer(),
        "char": CharTokenizer(alphabet),
        "char+bytes": CharTokenizer(alphabet, fallback=True),
    }[request.param]


def test_every_string_comes_back(tokenizer, any_string, hard):
    closed = isinstance(tokenizer, CharTokenizer) and not tokenizer.fallback

    @given(st.text(tokenizer.alphabet) if closed else any_string)
    @settings(max_examples=200, deadline=None)
    def check(text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode("utf-8")
        assert tokenizer.encode_array(text).tolist() == ids
        assert tokenizer.eot not in ids and all(0 <= i < tokenizer.n_vocab for i in ids)

    check()
    for text in [] if closed else hard:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_streaming_gives_whole_characters_and_loses_nothing(tokenizer):
    """Any ids at all, sense or nonsense: the pushes together are what decode gives for all of them."""

    @given(st.lists(st.integers(0, tokenizer.n_vocab - 1), max_size=30))
    @settings(max_examples=300, deadline=None)
    def check(ids):
        stream = tokenizer.stream()
        pushed = "".join([stream.push(i) for i in ids])
        assert pushed + stream.finish() == tokenizer.decode(ids)
        assert tokenizer.decode(ids).startswith(pushed)

    check()


def test_a_character_shows_only_when_it_is_whole():
    stream = ByteTokenizer().stream()
    assert [stream.push(b) for b in "a😀é".encode()] == ["a", "", "", "", "😀", "", "é"]
    assert stream.finish() == ""
    stream = ByteTokenizer().stream()
    assert [stream.push(b) for b in b"\xf0\x9f\x98"] == ["", "", ""] and stream.finish() == "\ufffd"
    stream = ByteTokenizer().stream()
    assert "".join(stream.push(b) for b in b"\xf0\x9fA\xff\xc3") + stream.finish() == "\ufffdA\ufffd\ufffd"


@pytest.mark.parametrize("ids", [[-1], [0, 10**6], np.array([3, -7]), [2**40]])
def test_ids_out_of_range_are_named(tokenizer, ids):
    bad = next(i for i in (int(i) for i in ids) if not 0 <= i < tokenizer.n_vocab)
    with pytest.raises(UserError, match=f"id {bad} is not in this .* 0 to {tokenizer.n_vocab - 1}"):
        tokenizer.decode(ids)
    with pytest.raises(UserError, match=str(bad)):
        tokenizer.stream().push(bad)


def test_ids_of_every_integer_type_and_nothing_else(tokenizer):
    for kind in (np.uint8, np.uint16, np.int32, np.uint32, np.int64):
        assert tokenizer.decode(np.array([1, 2], dtype=kind)) == tokenizer.decode([1, 2])
    assert tokenizer.decode([]) == tokenizer.decode(np.array([], dtype=np.float32)) == ""
    for wrong in (np.array([1.0]), np.array([[1]]), ["1"]):
        with pytest.raises(UserError, match="whole numbers"):
            tokenizer.decode(wrong)


def test_surrogates_have_a_defined_meaning():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"
    assert well_formed("\ufeffx\udfff") == "\ufeffx\ufffd"
    assert well_formed("plain 😀") == "plain 😀"


def test_save_load_pickle_and_fingerprint(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "new")
    tokenizer.save(tmp_path / "deep" / "new")  # again, over itself
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["new"]
    assert sorted(p.name for p in (tmp_path / "deep" / "new").iterdir()) == sorted(tokenizer.files())
    for again in (tokenizers.load(tmp_path / "deep" / "new"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.fingerprint == tokenizer.fingerprint
        assert (again.kind, again.n_vocab, again.eot) == (tokenizer.kind, tokenizer.n_vocab, tokenizer.eot)
        assert again.encode("abc 'é😀\n") == tokenizer.encode("abc 'é😀\n")


def test_save_and_load_in_a_bucket(bucket, tokenizer):
    tokenizer.save(f"{bucket}/runs/tokenizer")
    names = sorted(tokenizer.files())
    assert sorted(path for path, _ in files.walk(bucket)) == [f"{bucket}/runs/tokenizer/{name}" for name in names]
    for path in (f"{bucket}/runs/tokenizer", f"{bucket}/runs/tokenizer/{names[0]}"):
        assert tokenizers.load(path).fingerprint == tokenizer.fingerprint


def test_fingerprints_differ_and_follow_the_files(trained):
    known = [trained, ByteTokenizer(), CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", fallback=True)]
    assert len({t.fingerprint for t in known}) == len(known)
    content = ByteTokenizer().files()["byte.json"]
    expected = hashlib.sha256(b"byte.json\0" + str(len(content)).encode() + b"\0" + content).hexdigest()
    assert ByteTokenizer().fingerprint == expected


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    tokenizer = CharTokenizer("ab")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(Exception, match="room|space"):
        tokenizer.save(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def _full(descriptor):
    raise OSError(28, "No space left on device")


def test_tokenizers_need_no_tensorflow():
    code = "import sys, tfgpt.tokenizers; sys.exit('tensorflow' in sys.modules or 'tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
