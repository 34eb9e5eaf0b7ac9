"""Tokenizers in a graph against tiktoken, Hugging Face's cutting, Python's own UTF-8, and GPT-2's rule written out slowly."""

from __future__ import annotations

import os
import pydoc_data.topics
import random
import string
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import Regex, pre_tokenizers

from tests.tokenizers.conftest import HARD, strings
from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.export.graph_bpe import codec, in_order
from tfgpt.export.graph_words import Words, runs
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.char import CharTokenizer
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary

RELEASED = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
ALL = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
# All that Unicode has given a meaning, and some of what it has not: most of a million of code points.
SOME = [c for c in ALL if ord(c) < 0x33500 or 0xE0000 <= ord(c) < 0xE0200 or ord(c) % 61 == 0]


@pytest.fixture(scope="module")
def english() -> str:
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


@pytest.fixture(scope="module", params=["gpt2", "trained"])
def folder(request, english, tmp_path_factory):
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2_encoder")
    path = tmp_path_factory.mktemp("trained") / "tokenizer"
    tokenizers.train_bpe([english[:200_000]], 700).save(path)
    return path


@pytest.fixture(scope="module")
def reference(folder):
    """tiktoken's own reading of the files, with the pattern of GPT-2's release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding("reference", pat_str=RELEASED, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizers.load(folder)


@pytest.fixture(scope="module")
def graph(tokenizer):
    return codec(tokenizer, tokenizer.n_vocab)


@pytest.fixture(scope="module")
def encode(graph):
    return encoder(graph)


def encoder(graph):
    function = tf.function(graph.encode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)

    def ids(text):
        found = function(tf.constant(text if isinstance(text, bytes) else text.encode()))
        assert found.dtype == tf.int32
        return found.numpy().tolist()

    return ids


def decode(graph, ids) -> str:
    return graph.decode(tf.constant(ids, tf.int32)).numpy().decode("utf-8")


def test_hard_texts_have_tiktokens_ids(encode, reference):
    for text in [*HARD, "".join(HARD), *(a + b for a in HARD[:8] for b in HARD[:12])]:
        assert encode(text) == reference.encode_ordinary(text), text


def test_any_text_has_tiktokens_ids(encode, reference):
    @given(strings())
    @settings(max_examples=300)
    def check(text):
        assert encode(text) == reference.encode_ordinary(text)

    check()


def test_any_bytes_are_read_as_python_reads_them(encode, reference):
    bits = st.sampled_from(
        [b"\xf0\x9f", b"\x98\x80", b"\xed\xa0\x80", b"\xc3", b"\xa9", b"\xf5", b"\xe2\x80", b" a", b"\xff\x00"]
    )

    @given(st.lists(st.one_of(st.binary(max_size=12), bits), max_size=8).map(b"".join))
    @settings(max_examples=300)
    def check(data):
        assert encode(data) == reference.encode_ordinary(data.decode("utf-8", errors="replace"))

    check()


def around(characters) -> str:
    """Each character between neighbours of every kind, so that its own kind decides where words are cut."""
    return "".join(f"a{c}1{c} {c}!{c}\n{c}{c}'{c}'s{c}  " for c in characters)


def cuts(text: str) -> list[int]:
    """Where words begin, as Hugging Face's engine cuts."""
    return [place for _, (place, _) in pre_tokenizers.Split(Regex(RELEASED), "isolated").pre_tokenize_str(text)]


def same_cuts(words, text):
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int32)
    assert np.flatnonzero(words.starts(tf.constant(codes)).numpy()).tolist() == cuts(text)


def test_words_at_the_borders_of_each_kind():
    firsts, _ = runs()
    edges = {c for first in firsts.tolist() for c in (first - 1, first) if c >= 0 and not 0xD800 <= c < 0xE000}
    same_cuts(Words(), around(map(chr, sorted(edges))))


@pytest.mark.slow
def test_every_character_is_cut_and_encoded_like_tiktoken(encode, reference, folder):
    words = Words()
    # One vocabulary suffices for the cuts; its ids follow from them and the bytes.
    step = 1 if folder.name == "tokenizer" else 17
    for start in range(0, len(SOME), 8192):
        text = "".join(f"a{c}1 {c}\n{c}'s{c}" for c in SOME[start : start + 8192 : step])
        if step == 1:
            same_cuts(words, text)
        assert encode(text) == reference.encode_ordinary(text), hex(ord(SOME[start]))


def test_every_arrangement_of_few_signs_is_cut_alike():
    signs, words = " \n'sre1", Words()

    @given(st.text(st.sampled_from(signs + "tmdlv!\u00a0SéL"), max_size=14))
    @settings(max_examples=400)
    def check(text):
        same_cuts(words, text)

    check()


def test_long_texts_take_no_absurd_time(encode, reference, english):
    rng = random.Random(0)
    long_word = "".join(rng.choice(string.ascii_letters) for _ in range(2000))
    texts = [english[:20_000], long_word, "a" * 20_000, "=" * 20_000, " " * 20_000, "中文" * 5000, "'s" * 5000]
    for text in texts:
        started = time.process_time()
        ids = encode(text)
        assert time.process_time() - started < 5
        assert ids == reference.encode_ordinary(text)


def test_ids_become_the_tokenizers_text(graph, tokenizer):
    for text in HARD:
        assert decode(graph, tokenizer.encode(text)) == text
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 7, 40):
        for _ in range(20):
            ids = rng.integers(0, tokenizer.eot, length).tolist()
            # Torn characters become U+FFFD, as in tfgpt.
            assert decode(graph, ids) == tokenizer.decode(ids)
    assert decode(graph, [tokenizer.eot, *tokenizer.encode("ab"), tokenizer.eot]) == "ab"


def test_merges_that_were_trained_are_joined_together(tokenizer):
    assert in_order(tokenizer.vocabulary)


def slow_bpe(piece: str, merges) -> list[str]:
    """Join the pair of lowest rank, leftmost first, until no pair is a merge."""
    ranks, parts = {pair: rank for rank, pair in enumerate(merges)}, list(piece)
    while len(parts) > 1:
        rank, i = min((ranks.get((parts[i], parts[i + 1]), len(merges)), i) for i in range(len(parts) - 1))
        if rank == len(merges):
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_merges_that_no_training_would_make():
    ordered = []

    @given(st.data())
    @settings(max_examples=60)
    def check(data):
        tokens, merges = ["a", "b", "c"], []
        for _ in range(data.draw(st.integers(0, 8))):
            pair = (data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens)))
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
        if data.draw(st.booleans()):
            merges = data.draw(st.permutations(merges))
        everything = list(dict.fromkeys([*SYMBOL_OF_BYTE.values(), *tokens]))
        ids = {t: i for i, t in enumerate(data.draw(st.permutations(everything)))}
        vocabulary = Vocabulary(ids, merges)
        ordered.append(in_order(vocabulary))
        graph = codec(BpeTokenizer(vocabulary), len(ids))
        for _ in range(2):
            words = [data.draw(st.text("abc", max_size=12)) for _ in range(2)]
            # The line break stands by itself, so that there are three words.
            expected = [*slow_bpe(words[0], merges), SYMBOL_OF_BYTE[10], *slow_bpe(words[1], merges)]
            found = graph.encode(tf.constant("\n".join(words))).numpy().tolist()
            assert found == [ids[token] for token in expected]

    check()
    assert True in ordered and False in ordered


def test_a_merge_that_ranks_before_its_parts():
    ids = {t: i for i, t in enumerate([*SYMBOL_OF_BYTE.values(), "ab", "aba"])}
    graph = codec(BpeTokenizer(Vocabulary(ids, [("ab", "a"), ("a", "b")])), len(ids))
    # Once the first "ab" is there, "ab"+"a" comes before the second.
    assert graph.encode(tf.constant("abab ab")).numpy().tolist() == [ids[t] for t in ("aba", "b", "\u0120", "ab")]


@pytest.mark.parametrize("name", ["byte", "char", "char+bytes"])
def test_other_tokenizers(name):
    alphabet = " abé'\n中😀"
    tokenizer = tokenizers.from_name(name, texts=[alphabet])
    graph = codec(tokenizer, tokenizer.n_vocab)
    encode = encoder(graph)

    @given(st.text(st.sampled_from(alphabet), max_size=30) if name == "char" else strings())
    @settings(max_examples=150)
    def check(text):
        ids = tokenizer.encode(text)
        assert encode(text) == ids and decode(graph, ids) == text

    check()
    assert graph.eot == tokenizer.eot and graph.size == tokenizer.n_vocab
    assert decode(graph, [*tokenizer.encode("ab"), tokenizer.eot]) == "ab"
    if name == "char":
        with pytest.raises(tf.errors.InvalidArgumentError, match="alphabet"):
            encode("abz")
    else:
        assert encode(b"a\xffb") == tokenizer.encode("a\ufffdb")


def test_an_alphabet_in_any_order_and_without_an_end_of_text():
    tokenizer = CharTokenizer("zax\n", with_eot=False)
    graph = codec(tokenizer, 5)
    assert encoder(graph)("xaz") == tokenizer.encode("xaz")
    assert (graph.eot, graph.size, graph.beginning) == (4, 5, [4])  # training gave it one behind its own ids
    graph = codec(tokenizer, 4)
    assert (graph.eot, graph.size, graph.beginning) == (-1, 4, [3])
    assert codec(CharTokenizer("zax", with_eot=False), 3).beginning == [0]


def test_what_cannot_be_a_graph():
    tokenizer = tokenizers.from_name("byte")
    with pytest.raises(UserError, match="belong together"):
        codec(tokenizer, 256)
    tokenizer.kind = "words"
    with pytest.raises(UserError, match='of the kind "words"'):
        codec(tokenizer, 257)
