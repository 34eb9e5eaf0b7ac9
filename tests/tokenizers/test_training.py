"""Tokenizers made from the user's own text."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
import weakref
from collections import Counter

import pytest
import regex

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers import training
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE

RELEASED = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

SYMBOL_INDEX = {symbol: i for i, symbol in enumerate(SYMBOL_OF_BYTE.values())}


def test_layout_is_gpt2s(trained):
    ids, merges = trained.vocabulary.ids, trained.vocabulary.merges
    assert (trained.n_vocab, trained.eot) == (700, 699)
    assert [ids[s] for s in SYMBOL_OF_BYTE.values()] == list(range(256))
    assert [ids[left + right] for left, right in merges] == list(range(256, 699))


def test_first_merges_like_counting_by_hand(english):
    """The first merges are the pairs that occur most often, counted in plain Python."""
    text = english[:20_000]
    merges = tokenizers.train_bpe([text], 300).vocabulary.merges
    words = Counter(regex.findall(RELEASED, text))
    parts = {w: [SYMBOL_OF_BYTE[b] for b in w.encode("utf-8")] for w in words}
    for merge in merges[:20]:
        counts: Counter[tuple[str, str]] = Counter()
        for word, often in words.items():
            for pair in zip(parts[word], parts[word][1:], strict=False):
                counts[pair] += often
        assert counts[merge] == max(counts.values())
        for symbols in parts.values():
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == merge:
                    symbols[i : i + 2] = ["".join(merge)]
                i += 1


def test_same_text_same_tokenizer_in_another_process(trained):
    code = (
        "import pydoc_data.topics as t; from tfgpt import tokenizers\n"
        "text = '\\n'.join(v for _, v in sorted(t.topics.items()))\n"
        "print(tokenizers.train_bpe([text[:200_000]], 700).fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == trained.fingerprint


def test_any_size_from_257(english):
    assert tokenizers.train_bpe(["x"], 257).encode("xé") == [SYMBOL_INDEX["x"], SYMBOL_INDEX["Ã"], SYMBOL_INDEX["©"]]
    for size in (258, 333, 1001):
        assert tokenizers.train_bpe([english[:100_000]], size).n_vocab == size
    with pytest.raises(UserError) as error:
        tokenizers.train_bpe(["x"], 256)
    assert error.value.nearest == "257"


def test_too_little_text_says_so():
    # By hand: aa, aab and then " aab" occur twice or more; what occurs once is not learnt.
    with pytest.warns(UserWarning, match="only 260 ids, not 5000"):
        tokenizer = tokenizers.train_bpe(["aab aab aab xyz"], 5000)
    assert tokenizer.pieces[256:] == [b"aa", b"aab", b" aab", b"<|endoftext|>"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizers.train_bpe(["aab aab aab xyz"], 260)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_at_all(texts):
    for train in (lambda: tokenizers.train_bpe(texts, 300), lambda: tokenizers.train_char(texts)):
        with pytest.raises(UserError, match="no text"):
            train()


def test_half_characters_and_special_words_in_the_text():
    text = "lone \ud800 surrogate <|endoftext|> <|endoftext|> \x00 " * 50
    tokenizer = tokenizers.train_bpe([text], 280)
    ids = tokenizer.encode(text)
    assert tokenizer.eot not in ids
    assert tokenizer.decode(ids) == text.replace("\ud800", "\ufffd")
    assert "\ufffd" in tokenizers.train_char([text]).alphabet


def test_endless_runs_do_not_stop_the_trainer():
    """The trainer's time grows with the square of a word's length; a megabyte of dashes must not take hours."""
    started = time.monotonic()
    with pytest.warns(UserWarning, match="only"):
        tokenizer = tokenizers.train_bpe(["-" * 1_000_000, "a" * 1_000_000, "\n" * 1_000_000, "x " * 99], 2000)
    assert time.monotonic() - started < 5
    assert max(map(len, tokenizer.pieces)) <= 256


def test_one_long_text_is_learnt_like_its_parts(english, monkeypatch):
    """A long text reaches the trainer in pieces; cut between words, they teach the same as the words themselves."""
    words = [word for word in regex.findall(r"\s\S+", english[:300_000]) if len(word) < 30]
    monkeypatch.setattr(training, "PIECE", 64)
    whole = tokenizers.train_bpe(["".join(words)], 400)
    assert whole.fingerprint == tokenizers.train_bpe(words, 400).fingerprint


def test_a_long_text_without_spaces_is_cut_all_the_same(monkeypatch):
    monkeypatch.setattr(training, "PIECE", 10)
    text = "0123456789ab\ncdefghijklmnopqrstuvwxyz Ω"
    assert list(training._some([text, "", "x"])) == [
        "0123456789",
        "ab",
        "\ncdefghijk",
        "lmnopqrstu",
        "vwxyz Ω",
        "x",
    ]


def test_texts_are_drawn_as_a_stream():
    """However much text there is, some of it is held at a time: pieces that were read are let go."""

    class Piece(str):
        pass

    alive: weakref.WeakSet[Piece] = weakref.WeakSet()
    most = 0

    def texts():
        nonlocal most
        for i in range(3000):
            piece = Piece(f"piece number {i} ")
            alive.add(piece)
            most = max(most, len(alive))
            yield piece

    tokenizers.train_bpe(texts(), 300)
    assert most < 1000


def test_a_mistake_in_the_source_of_text_is_passed_on():
    def texts():
        yield "some text"
        raise UserError("a damaged file", where="line 7")

    with pytest.raises(UserError, match="a damaged file"):
        tokenizers.train_bpe(texts(), 300)


def test_transformers_reads_the_files(trained, trained_folder, english):
    from transformers import GPT2TokenizerFast

    reference = GPT2TokenizerFast(vocab=str(trained_folder / "encoder.json"), merges=str(trained_folder / "vocab.bpe"))
    text = english[250_000:260_000]
    assert reference(text)["input_ids"] == trained.encode(text)
    assert reference.eos_token_id == trained.eot and len(reference) == trained.n_vocab
