"""One text: characters that tokens split, stop strings, ends, and texts that are longer than the context."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generation.fake import FakeEngine, bytes_language, generator, logits_of, written
from tfgpt.errors import Failure, UserError
from tfgpt.generation import window
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.language import Language
from tfgpt.generation.options import Options
from tfgpt.tokenizers import train_char
from tfgpt.tokenizers.char import CharTokenizer

TEXT = "né ☃ 🙂 end"


def one(text, *, prompt="x", eot=False, **options):
    """What is written by a model that means to write `text`, with the pieces in which it came."""
    engine = generator(n_ctx=64, logits=written(text, eot=eot))
    pieces = list(engine.stream(prompt, **options))
    (result,) = engine.generate(prompt, **options)
    assert "".join(pieces) == result.text
    return result, pieces


def test_characters_come_whole():
    result, pieces = one(TEXT, length=len(TEXT.encode()))
    assert result.text == TEXT and pieces == list(TEXT) and result.finish == "length"
    assert bytes(result.tokens).decode() == TEXT


def test_a_text_that_ends_within_a_character_says_so_with_one_sign():
    result, pieces = one("ab🙂", length=4)
    assert result.text == "ab\ufffd" and pieces == ["a", "b", "\ufffd"]
    result, _ = one("ab🙂", length=4, stop=["b\ufffd"])
    assert (result.text, result.finish) == ("a", "stop")


def test_stop_strings_across_the_borders_of_tokens():
    for stop in ("☃", "☃ 🙂", "é ", " "):
        result, _ = one(TEXT, length=40, stop=[stop, "never"])
        assert result.text == TEXT[: TEXT.index(stop)] and (result.finish, result.stop) == ("stop", stop)
        assert len(result.tokens) == len(TEXT[: TEXT.index(stop) + len(stop)].encode()), "not one token more is drawn"
    result, _ = one("ab#", length=3, stop=["##"])
    assert (result.text, result.finish) == ("ab#", "length"), "what was held back in vain is shown"


def test_end_of_text_ends_unless_it_is_told_otherwise():
    result, _ = one("fin", eot=True, length=9)
    assert (result.text, result.tokens, result.finish) == ("fin", [*b"fin", 256], "eot")
    result, _ = one("fin", eot=True, length=9, ignore_eot=True)
    assert (result.text, result.finish) == ("fin<|endoftext|>     ", "length")
    result, _ = one("fin", eot=True, length=9, stop=["n!"])
    assert (result.text, result.finish) == ("fin", "eot")


def test_log_probabilities_are_those_of_the_model():
    result, _ = one("ab", length=2, logprobs=True, temperature=0.1, logit_bias={99: 5})
    assert result.logprobs == pytest.approx([0.0, 0.0], abs=1e-9)
    assert one("ab", length=2)[0].logprobs is None


def seen_by_the_model(prompt: str, *, n_ctx: int, **options):
    """What the slot held at each token, the notes, and the result."""
    seen = []

    def logits(held):
        seen.append(list(held))
        return logits_of(held, 257)

    maker = generator(n_ctx=n_ctx, logits=logits)
    (result,) = maker.generate(prompt, seed=4, ignore_eot=True, **options)
    return seen, maker.notes, result


@pytest.mark.parametrize("n_ctx", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("prompt", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("length", [1, 2, 9, 30])
def test_the_window_rule(n_ctx, prompt, length):
    """Against the rule told in another way: what is seen is the end of the text; when it is full, half of it goes."""
    text = "".join(chr(97 + number % 26) for number in range(prompt))
    seen, notes, result = seen_by_the_model(text, n_ctx=n_ctx, length=length)
    whole = [*text.encode(), *result.tokens]
    assert len(result.tokens) == len(seen) == length
    size = kept = prompt if prompt <= n_ctx else max(n_ctx - length + 1, n_ctx // 2, 1)
    for number, held in enumerate(seen):
        assert held == whole[: prompt + number][-size:] and 1 <= size <= n_ctx
        size = size + 1 if size < n_ctx else max(1, n_ctx // 2)
    assert sum("prompt is longer" in note for note in notes) == (prompt > n_ctx)
    assert sum("context is full" in note for note in notes) == (kept + length - 1 > n_ctx)


def test_length_without_a_number():
    assert len(seen_by_the_model("abc", n_ctx=16)[2].tokens) == 13
    assert len(seen_by_the_model("a" * 16, n_ctx=16)[2].tokens) == 8
    assert len(seen_by_the_model("a" * 99, n_ctx=16)[2].tokens) == 8
    assert len(seen_by_the_model("", n_ctx=16)[2].tokens) == 15
    assert window.default_length(1, 1) == 1


def test_an_empty_prompt_begins_a_document():
    seen, _, result = seen_by_the_model("", n_ctx=16, length=1)
    assert seen == [[256]] and result.prompt_tokens == 0
    for tokenizer, first in ((CharTokenizer("ab\n", with_eot=False), 2), (CharTokenizer("ab", with_eot=False), 0)):
        assert Language(tokenizer, tokenizer.n_vocab).prompt("") == ([first], [])
        # With one id more in the model, training has made it the end of a document.
        assert Language(tokenizer, tokenizer.n_vocab + 1).prompt("") == ([tokenizer.n_vocab], [])
        assert Language(tokenizer, tokenizer.n_vocab + 1).decode([0, tokenizer.n_vocab]) == "a<|endoftext|>"


def test_an_end_of_text_that_only_the_model_has_ends_too():
    letters = CharTokenizer("ab", with_eot=False)
    for eot, finish in ((2, "eot"), (1, "length")):
        logits = np.eye(4, dtype=np.float32)[eot] * 50
        maker = generator(language=Language(letters, 4), n_vocab=4, logits=lambda held, row=logits: row)
        (result,) = maker.generate("a", length=3)
        assert (result.finish, result.tokens) == (finish, [2] if finish == "eot" else [1, 1, 1])


def test_ids_that_stand_for_nothing_are_never_drawn():
    def logits(held):
        row = logits_of(held, 300)
        row[257:] = 50.0
        return row

    maker = generator(n_ctx=16, n_vocab=300, logits=logits)
    for options in ({}, {"temperature": 0}, {"top_k": 500}):
        assert max(maker.generate("a", length=40, ignore_eot=True, **options)[0].tokens) < 257


def test_the_penalty_counts_prompt_and_output_but_no_end_of_text_of_ours():
    def logits(held):
        return logits_of([], 257, spread=1.0) * 0 + 1.0  # every id is as likely as any other

    maker = generator(n_ctx=300, logits=logits)
    keys = {"temperature": 0, "repetition_penalty": 1.1, "ignore_eot": True}
    assert maker.generate("\0\1\2", length=4, **keys)[0].tokens == [3, 4, 5, 6]
    assert maker.generate("", length=257, **keys)[0].tokens == list(range(257))


def test_options_about_ids_that_do_not_exist():
    maker = generator(n_vocab=300)
    for keys, said in (
        ({"banned": [257]}, "no id 257"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {999: 1.0}}, "no id 999"),
        ({"banned": list(range(257))}, "all ids are banned"),
    ):
        with pytest.raises(UserError, match=said):
            maker.generate("a", **keys)
        with pytest.raises(UserError, match=said):
            maker.stream("a", **keys)


def test_prompts_as_ids_and_what_is_no_prompt():
    maker = generator()
    keys = {"seed": 1, "length": 9}
    (by_ids,), (by_text,) = (maker.generate(prompts, **keys) for prompts in ([[104, 195, 169]], "hé"))
    assert (by_ids.prompt, by_ids.text, by_ids.prompt_tokens) == ("hé", by_text.text, 3)
    for wrong in ([1, 2], [None], [b"bytes"], [["a"]], [[1.5]], [[257]], [[-1]]):
        with pytest.raises(UserError, match="a prompt is a text|there is no id"):
            maker.generate(wrong)


def test_a_prompt_with_half_a_surrogate_pair_and_one_that_cannot_be_written():
    assert generator().generate("a\udc80", length=1)[0].prompt_tokens == 4
    letters = train_char(["abc"])
    maker = generator(language=Language(letters, letters.n_vocab), n_vocab=letters.n_vocab, slots=2)
    with pytest.raises(UserError, match="'z'"):
        maker.generate(["abc", "abz"])
    assert not maker._streams._decoding.busy, "what was begun beside it is let go"


def test_numbers_that_are_none_end_that_text_alone():
    def logits(held):
        return logits_of(held, 257) * (float("nan") if held[0] == ord("b") and len(held) > 3 else 1.0)

    maker = generator(slots=2, logits=logits)
    with pytest.raises(Failure, match="not finite"):
        maker.generate("bad", length=8)
    decoding = Decoding(FakeEngine(slots=2, logits=logits), bytes_language())
    good, bad = (decoding.add(text, Options(seed=1, length=6)) for text in ("good", "bad"))
    while decoding.busy:
        decoding.step()
    assert decoding.result(bad).finish == "error"
    assert decoding.result(good).text == generator().generate("good", seed=1, length=6)[0].text
