"""Anything that is legal works, and anything that is not is refused with the range that is."""

from __future__ import annotations

import random

import pytest

from tests.generation.fake import generator
from tfgpt.errors import UserError
from tfgpt.generation.language import Language
from tfgpt.generation.options import LEGAL, Options
from tfgpt.tokenizers import from_name, train_bpe, train_char

ALPHABETS = ["ab c\n", "éßñ", "\u4e2d\u6587", "🙂👩\u200d👩", "\0\x1f\ufeff\ufffd", "\ud800\udc00", "\u0301\u202e"]


def prompt_of(draw: random.Random) -> str:
    size = draw.choice([0, 1, 2, 20, draw.randint(0, 5000)])
    if draw.random() < 0.2:
        return "".join(chr(draw.randrange(0x110000)) for _ in range(min(size, 500)))
    return "".join(draw.choices(draw.choice(ALPHABETS), k=size))


def options_of(draw: random.Random, n_vocab: int) -> dict:
    choices = {
        "temperature": [0, 1e-300, 0.3, 1.0, 100],
        "top_k": [0, 1, 5, 10**9],
        "top_p": [1e-300, 0.5, 0.95, 1],
        "min_p": [0.0, 0.1, 1],
        "repetition_penalty": [0.01, 0.85, 1, 1.2, 100],
        "stop": [[], ["a"], ["\n\n", "🙂", "\ufffd"]],
        "ignore_eot": [True, False],
        "seed": [0, 2**63 - 1, None],
        "num_samples": [1, 3],
        "logit_bias": [{}, {0: 1e6}, {n_vocab - 1: -1e6, 3: 2.5}],
        "banned": [[], [0, 1, 2], list(range(n_vocab - 1))],
        "logprobs": [True, False],
    }
    keys = {name: draw.choice(values) for name, values in choices.items() if draw.random() < 0.5}
    return keys | {"length": draw.choice([1, 2, 7, 60])}


@pytest.mark.parametrize("seed", range(4))
def test_any_prompt_and_any_legal_options(seed):
    draw = random.Random(seed)
    text = "the cat sat on the mat and the dog ate the hat of naïve 🙂 people\n" * 20
    tokenizers = [from_name("byte"), train_bpe([text], 290), train_char([text], bytes=True)]
    for _ in range(120):
        tokenizer = draw.choice(tokenizers)
        extra = draw.choice([0, 1, 47])
        language = Language(tokenizer, tokenizer.n_vocab + extra)
        n_vocab, n_ctx = tokenizer.n_vocab + extra, draw.choice([1, 2, 24])
        maker = generator(language=language, n_vocab=n_vocab, n_ctx=n_ctx, slots=draw.randint(1, 4))
        keys = options_of(draw, tokenizer.n_vocab)
        for result in maker.generate([prompt_of(draw) for _ in range(draw.randint(0, 3))], **keys):
            assert all(0 <= token < tokenizer.n_vocab for token in result.tokens)
            assert 1 <= len(result.tokens) <= keys["length"]
            whole = language.decode(result.tokens)
            assert whole.startswith(result.text)
            if result.finish == "length":
                assert result.text == whole and len(result.tokens) == keys["length"]
            for mark in keys.get("stop", []):
                assert mark not in result.text
            result.text.encode("utf-8")  # no half character
        assert maker.generate([]) == []


ILLEGAL = {
    "temperature": [-0.1, 101, float("nan"), float("inf"), "hot", None, True],
    "top_k": [-1, 2.5, "many", 2**40],
    "top_p": [0, -1, 1.01, float("nan")],
    "min_p": [-0.1, 1.5],
    "repetition_penalty": [0, 1e-300, -1, 1000, float("nan")],
    "length": [0, -5, 1.5, 10**9],
    "num_samples": [0, 1.0, 10**9],
    "seed": [-1, 2**63, 0.5],
    "stop": [[""], [1], "", ["x" * 2000], 5],
    "logit_bias": [{"a": 1}, {1: "b"}, {1: float("nan")}, [1]],
    "banned": [[-1], ["a"], 7],
    "ignore_eot": [1, "yes"],
    "logprobs": [None, 5],
}


@pytest.mark.parametrize("name", LEGAL)
def test_illegal_options_are_refused_with_the_legal_range(name):
    for value in ILLEGAL[name]:
        with pytest.raises(UserError) as error:
            Options(**{name: value})
        assert LEGAL[name].words in str(error.value) and name in str(error.value) and error.value.exit_code == 2


def test_all_mistakes_at_once_and_names_that_are_none():
    with pytest.raises(UserError) as error:
        Options(temperature=-1, top_p=2)
    assert "temperature" in str(error.value) and "top_p" in str(error.value)
    with pytest.raises(UserError, match='"temprature"') as error:
        generator().generate("a", temprature=1)
    assert error.value.nearest == '"temperature"'
    assert Options.of({"logit_bias": {"50256": -100}}).logit_bias == {50256: -100.0}, "JSON's keys are texts"
