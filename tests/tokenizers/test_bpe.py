"""Our byte pairs against tiktoken's own loader, Hugging Face's engine, and GPT-2's rule written out in the slowest way."""

from __future__ import annotations

import itertools
import json
import pickle
import time
import unicodedata

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import Regex, pre_tokenizers

from tfgpt import tokenizers
from tfgpt.tokenizers.bpe import SPLIT, BpeTokenizer
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary

# The split rule in the words of GPT-2's release; ours is written in another way that must cut at the same places.
RELEASED = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
MB = 1 << 20


@pytest.fixture(scope="session")
def gpt2(gpt2_encoder):
    return tokenizers.load(gpt2_encoder)


@pytest.fixture(scope="session")
def unequal() -> set[str]:
    """Characters that the installed tiktoken and tokenizers class differently: with equal Unicode tables, none."""
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    found: set[str] = set()
    for pattern in (r"\p{L}", r"\p{N}", r"\s"):
        ranks = {bytes([b]): b for b in range(256)}
        ours = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        theirs = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        found |= set(bytes(ours.encode_ordinary(everything)).decode()) ^ set(
            "".join(piece for piece, _ in theirs.pre_tokenize_str(everything))
        )
    return found


def slow_bpe(piece: str, merges: list[tuple[str, str]]) -> list[str]:
    """GPT-2's merging, word for word: join the pair of lowest rank, leftmost first, until no pair is a merge."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = [SYMBOL_OF_BYTE[b] for b in piece.encode("utf-8")]
    while len(parts) > 1:
        rank, i = min((ranks.get((parts[i], parts[i + 1]), len(merges)), i) for i in range(len(parts) - 1))
        if rank == len(merges):
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_the_known_ids(gpt2):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]
    assert (gpt2.kind, gpt2.n_vocab, gpt2.eot) == ("bpe", 50257, 50256)
    assert gpt2.decode([50256]) == "<|endoftext|>"


def test_tinyshakespeare_has_the_published_number_of_ids(gpt2, shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    assert [len(gpt2.encode_array(part)) for part in (text[:cut], text[cut:])] == [301966, 36059]


def test_gpt2_like_tiktokens_own_loader(gpt2, gpt2_encoder, hard, any_string, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = data_gym_to_mergeable_bpe_ranks(str(gpt2_encoder / "vocab.bpe"), str(gpt2_encoder / "encoder.json"))
    reference = tiktoken.Encoding(
        "gpt2", pat_str=RELEASED, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}, explicit_n_vocab=50257
    )
    _agree(gpt2, reference.encode_ordinary, [*hard, "a\ud800b", "\ud83d\ude00 \ude00\ud83d", "\udfff"], any_string)


def test_gpt2_like_hugging_face(gpt2, gpt2_encoder, machine_of, hard, any_string, unequal):
    machine = machine_of(gpt2_encoder)
    _agree(gpt2, lambda text: machine.encode(text).ids, hard, any_string, unequal)


def test_gpt2_like_transformers(gpt2, gpt2_encoder, hard):
    from transformers import GPT2TokenizerFast

    reference = GPT2TokenizerFast(vocab=str(gpt2_encoder / "encoder.json"), merges=str(gpt2_encoder / "vocab.bpe"))
    # Their tokenizer takes the text "<|endoftext|>" for the end of the text; ours never does.
    for text in hard:
        if "<|endoftext|>" not in text:
            assert gpt2.encode(text) == reference(text)["input_ids"], text


def test_trained_like_hugging_face(trained, trained_folder, machine_of, hard, any_string, unequal):
    machine = machine_of(trained_folder)
    _agree(trained, lambda text: machine.encode(text).ids, hard, any_string, unequal)


def test_trained_like_tiktokens_own_loader(trained, trained_folder, hard, any_string, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = data_gym_to_mergeable_bpe_ranks(str(trained_folder / "vocab.bpe"), str(trained_folder / "encoder.json"))
    reference = tiktoken.Encoding("trained", pat_str=RELEASED, mergeable_ranks=ranks, special_tokens={})
    _agree(trained, reference.encode_ordinary, hard, any_string)


def test_trained_like_gpt2s_rule_in_plain_python(trained, english):
    text = english[300_000:310_000]
    ids = trained.vocabulary.ids
    expected = [ids[t] for piece in regex.findall(RELEASED, text) for t in slow_bpe(piece, trained.vocabulary.merges)]
    assert trained.encode(text) == expected


def test_unicode_tables_differ_at_most_in_characters_newer_than_python(unequal):
    assert {c for c in unequal if unicodedata.category(c) != "Cn"} == set()


def test_end_of_text_never_comes_from_text(trained):
    @given(st.lists(st.sampled_from(["<|", "endoftext", "|>", "<|endoftext|>", " ", "\n", "é", "<", "|"])).map("".join))
    @settings(max_examples=200, deadline=None)
    def check(text):
        assert trained.eot == trained.n_vocab - 1
        assert trained.eot not in trained.encode(text)
        assert trained.decode(trained.encode(text)) == text

    check()


@pytest.mark.parametrize("order", ["special first", "shuffled"])
def test_ids_in_any_order(trained, order, any_string):
    """A vocabulary whose ids are not in the order of its merges gives the same pieces under its own ids."""
    tokens = sorted(trained.vocabulary.ids, key=trained.vocabulary.ids.__getitem__)
    if order == "special first":
        tokens = ["<pad>", "<|endoftext|>", *tokens[:-1]]
    else:
        np.random.default_rng(0).shuffle(tokens)
    other = BpeTokenizer(Vocabulary({t: i for i, t in enumerate(tokens)}, trained.vocabulary.merges))
    assert other.eot == tokens.index("<|endoftext|>")

    @given(any_string)
    @settings(max_examples=100, deadline=None)
    def check(text):
        ids = other.encode(text)
        assert [other.pieces[i] for i in ids] == [trained.pieces[i] for i in trained.encode(text)]
        assert other.decode(ids) == text

    check()
    again = pickle.loads(pickle.dumps(other))
    assert again.encode("Hello world") == other.encode("Hello world") and again.fingerprint == other.fingerprint


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_merges_that_no_training_would_make(data):
    """tiktoken ranks tokens, GPT-2 ranks pairs; for hand-made merges the difference shows unless it is taken care of."""
    tokens, merges = ["a", "b", "c"], []
    for _ in range(data.draw(st.integers(0, 8))):
        pair = (data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens)))
        merges.append(pair)
        tokens.append(pair[0] + pair[1])
    if data.draw(st.booleans()):
        merges = data.draw(st.permutations(merges))
    ids = {t: i for i, t in enumerate(dict.fromkeys([*SYMBOL_OF_BYTE.values(), *tokens]))}
    ours = BpeTokenizer(Vocabulary(ids, merges))
    for _ in range(4):
        text = data.draw(st.text("abc", max_size=12))
        assert ours.encode(text) == [ids[t] for t in slow_bpe(text, merges)]


def test_a_pair_that_is_no_merge_stays_apart():
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]  # "abc" becomes a+bc, and a+bc is no merge
    ids = {t: i for i, t in enumerate([*SYMBOL_OF_BYTE.values(), "bc", "ab", "abc"])}
    tokenizer = BpeTokenizer(Vocabulary(ids, merges))
    assert [tokenizer.pieces[i] for i in tokenizer.encode("abc")] == [b"a", b"bc"]


def test_the_shortcut_for_gpt2s_merges_changes_nothing(gpt2):
    checked = Vocabulary(gpt2.vocabulary.ids, gpt2.vocabulary.merges)
    assert gpt2.vocabulary.trusted and not checked.trusted
    assert checked.ranks() == gpt2.vocabulary.ranks()


def test_gpt2s_files_come_back_byte_for_byte(gpt2, gpt2_encoder):
    for name, content in gpt2.files().items():
        assert (gpt2_encoder / name).read_bytes() == content


def test_array_and_list_agree(trained, hard):
    for text in hard:
        array = trained.encode_array(text)
        assert array.dtype == np.uint32 and array.ndim == 1
        assert array.tolist() == trained.encode(text)


RUNS = {
    "letter": "a", "space": " ", "newline": "\n", "digit": "7", "accent": "é", "emoji": "😀", "dash": "-", "punctuation": "!?",
    "apostrophe": "'", "no-break space": "\u00a0", "space newline": " \n", "contraction": "'s", "nul": "\0",
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_megabyte_of_one_thing(trained, name):
    _fast_and_exact(trained, RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_a_megabyte_of_one_thing_in_gpt2(gpt2, name):
    _fast_and_exact(gpt2, RUNS[name])


def test_long_spaces_before_words(trained):
    """The split rule must look ahead at the end of each run; that may cost a step a run, not a step a character."""
    _fast_and_exact(trained, " " * 2000 + "a")
    _fast_and_exact(trained, "\n" * 65_536 + "word")


def test_the_split_rule_is_the_released_one(hard, any_string):
    """The cuts themselves, before any merge could hide a difference."""

    @given(any_string)
    @settings(max_examples=300, deadline=None)
    def check(text):
        assert regex.findall(SPLIT, text) == regex.findall(RELEASED, text)

    check()
    for text in hard:
        assert regex.findall(SPLIT, text) == regex.findall(RELEASED, text)


def test_files_are_plain_json_and_lines(trained, trained_folder):
    ids = json.loads((trained_folder / "encoder.json").read_bytes())
    assert list(ids)[:3] == ["!", '"', "#"] and ids["<|endoftext|>"] == len(ids) - 1
    assert (trained_folder / "vocab.bpe").read_bytes().startswith(b"#version: 0.2\n")


def _fast_and_exact(tokenizer, unit):
    text = unit * (MB // len(unit.encode("utf-8")))
    # Processor time: this measures the tokenizer, not what else the machine does.
    started = time.process_time()
    array = tokenizer.encode_array(text)
    assert time.process_time() - started < 2
    assert tokenizer.decode(array) == text


def _agree(tokenizer, reference, texts, any_string, unequal=frozenset()):
    for text in texts:
        assert tokenizer.encode(text) == reference(text), text

    @given(any_string.filter(lambda text: not unequal.intersection(text)))
    @settings(max_examples=300, deadline=None)
    def check(text):
        ids = tokenizer.encode(text)
        assert ids == reference(text)
        assert tokenizer.decode(ids) == text

    check()


AWKWARD = ["\x00", "a\x01b", "\ud800", "x  ", "  y", "\n\n", " \n z", "\u00a0 \u3000w", "it's  'll", "<|endoftext|>"]


@settings(max_examples=300)
@given(texts=st.lists(st.one_of(st.text(max_size=30), st.sampled_from(AWKWARD)), max_size=6))
def test_many_texts_in_one_call_are_the_same_as_one_by_one(trained, trained_folder, machine_of, texts):
    machine = machine_of(trained_folder)
    ids, lengths = trained.encode_batch(texts)
    whole = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in texts]
    expected = [machine.encode(text).ids for text in whole]
    assert lengths == [len(one) for one in expected]
    assert ids.tolist() == [number for one in expected for number in one]


def test_the_fast_rule_cuts_where_gpt2s_rule_cuts(trained):
    """Every arrangement of up to six spaces, letters, digits, marks and quotes, by both engines."""
    texts = ["".join(t) for n in range(1, 7) for t in itertools.product(" \na1!'", repeat=n) if n < 6 or t[0] in " '"]
    ids, lengths = trained.encode_batch(texts)
    slow = [trained._one(text)[0] for text in texts]
    assert lengths == [len(one) for one in slow]
    assert np.array_equal(ids, np.concatenate(slow))
