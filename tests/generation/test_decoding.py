"""Many texts over few slots: same seed, same text, whatever runs beside it; slots are used again at once; cancelling."""

from __future__ import annotations

import random

import pytest

from tests.generation.fake import FakeEngine, bytes_language, generator
from tfgpt.errors import UserError
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.options import Options


def alone(prompt: str, options: Options, sample: int = 0):
    """The text that comes when nothing else runs."""
    decoding = Decoding(FakeEngine(), bytes_language())
    number = decoding.add(prompt, options, sample=sample)
    while decoding.busy:
        decoding.step()
    return decoding.result(number)


def jobs(seed: int, count: int = 25):
    draw = random.Random(seed)
    for _ in range(count):
        keys = {"top_k": draw.choice([0, 5]), "top_p": draw.choice([1.0, 0.7]), "length": draw.randint(1, 40)}
        keys |= {"repetition_penalty": draw.choice([1.0, 1.3]), "stop": draw.choice([[], ["e"]])}
        prompt = "".join(draw.choices("abcé ", k=draw.randint(0, 30)))
        yield prompt, Options(seed=draw.randint(0, 3), **keys), draw.randint(0, 2)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_same_seed_same_text_whatever_runs_beside_it(slots):
    """Requests come and are cancelled at random moments, in other orders and over other numbers of slots."""
    draw = random.Random(slots)
    decoding = Decoding(FakeEngine(slots=slots), bytes_language())
    todo, running, finished = list(jobs(1)), {}, 0
    draw.shuffle(todo)
    while todo or decoding.busy:
        for _ in range(draw.randint(0, 3)):
            if todo:
                prompt, options, sample = todo.pop()
                running[decoding.add(prompt, options, sample=sample)] = (prompt, options, sample)
        pieces: dict[int, str] = {}
        for piece in decoding.step():
            pieces[piece.request] = piece.text
        if draw.random() < 0.03 and running:
            victim = draw.choice(list(running))
            whole = alone(*running[victim])
            decoding.cancel(victim)
            result = decoding.result(victim)
            if result.finish == "cancelled":
                assert whole.tokens[: len(result.tokens)] == result.tokens
                del running[victim]
                continue
            assert result.text == whole.text
            del running[victim]
        for number in list(running):
            if result := decoding.result(number):
                expected = alone(*running.pop(number))
                assert (result.text, result.tokens, result.finish) == (expected.text, expected.tokens, expected.finish)
                finished += 1
    assert finished > 15 and not running


def test_a_slot_is_used_again_at_once_and_nobody_waits_for_the_longest():
    engine = FakeEngine(slots=2)
    decoding = Decoding(engine, bytes_language())
    long = decoding.add("a", Options(seed=1, length=12, ignore_eot=True))
    short = [decoding.add("b", Options(seed=1, length=3, ignore_eot=True)) for _ in range(4)]
    steps = 0
    while decoding.busy:
        decoding.step()
        steps += 1
    assert steps == 12, "4 texts of 3 tokens went by beside the one of 12"
    assert all(decoding.result(number).finish == "length" for number in [long, *short])
    assert decoding.result(long) is None, "a result is handed out once"
    # Only the very first call has nothing but prompts, and every later one has both slots at work.
    assert sum(len(slots) for _, slots in engine.calls) == 12 + 4 * 3


def test_one_token_each_and_first_come_first_served():
    decoding = Decoding(FakeEngine(slots=2), bytes_language())
    numbers = [decoding.add("a", Options(seed=seed, length=2, ignore_eot=True)) for seed in range(4)]
    order = [{piece.request for piece in decoding.step()} for _ in range(4)]
    assert order == [set(numbers[:2])] * 2 + [set(numbers[2:])] * 2


def test_long_prompts_are_read_one_a_step_and_the_others_write_on():
    engine = FakeEngine(slots=4)  # 16 tokens
    decoding = Decoding(engine, bytes_language())
    options = Options(seed=1, length=6, ignore_eot=True)
    writer = decoding.add("a", options)
    decoding.step()
    long, other, short = (decoding.add(text, options) for text in ("b" * 16, "c" * 10, "d"))
    order = [{piece.request for piece in decoding.step()} for _ in range(3)]
    # In the second step, half of the text that filled its context is read anew: with that, the 10 do not fit.
    assert order == [{writer, long}, {writer, long}, {writer, long, other, short}]
    prompts = [slots for kind, slots in engine.calls if kind == "prefill"]
    assert prompts == [(0,), (1,), (1,), (2, 3)]
    decoding = Decoding(FakeEngine(slots=4), bytes_language())
    first, second, third = (decoding.add(text, options) for text in ("b" * 9, "c" * 9, "d"))
    order = [{piece.request for piece in decoding.step()} for _ in range(2)]
    assert order == [{first}, {first, second, third}], "a short prompt overtakes nobody"


def test_cancelling_a_text_that_waits_runs_ended_or_never_was():
    decoding = Decoding(FakeEngine(slots=1), bytes_language())
    options = Options(seed=1, length=5, ignore_eot=True)
    running, waiting, last = (decoding.add("a", options) for _ in range(3))
    decoding.step()
    decoding.cancel(waiting)
    decoding.cancel(running)
    decoding.cancel(999)
    assert decoding.result(waiting).tokens == [] and len(decoding.result(running).tokens) == 1
    assert [piece.request for piece in decoding.step()] == [last], "its slot was free at once"
    decoding.cancel(last)
    decoding.cancel(last)
    assert not decoding.busy and decoding.step() == []


def test_samples_are_the_same_however_many_there_are():
    few = generator(slots=2).generate(["to be", "or"], num_samples=2, seed=5, length=20)
    many = generator(slots=5).generate(["or", "to be"], num_samples=7, seed=5, length=20)
    texts = {(result.prompt, result.sample): result.text for result in many}
    assert len(set(texts.values())) == 14
    assert all(texts[result.prompt, result.sample] == result.text for result in few)
    assert [(result.prompt, result.sample) for result in few] == [("to be", 0), ("to be", 1), ("or", 0), ("or", 1)]


def test_without_a_seed_every_call_is_new_and_tells_its_seed():
    maker = generator()
    first, second = (maker.generate("a", length=20)[0] for _ in range(2))
    assert first.seed != second.seed and first.text != second.text
    assert maker.generate("a", length=20, seed=first.seed)[0].text == first.text


def test_streams_in_turns_and_left_behind():
    maker = generator(slots=2)
    texts = [maker.generate("a", seed=seed, length=12)[0].text for seed in range(3)]
    streams = [maker.stream("a", seed=seed, length=12) for seed in range(3)]
    collected = ["", "", ""]
    while any(streams):
        for number, stream in enumerate(streams):
            if stream is not None:
                try:
                    collected[number] += next(stream)
                except StopIteration:
                    streams[number] = None
    assert collected == texts
    for _ in maker.stream("a", seed=1, length=10**6, ignore_eot=True):
        break
    assert not maker._streams._decoding.busy, "leaving the loop ends the text"
    maker.stream("a", length=10)
    assert not maker._streams._decoding.busy, "what nobody reads is not begun"
    with pytest.raises(UserError, match="num_samples"):
        maker.stream("a", num_samples=2)
