"""What goes wrong in one text ends that text: all others are as they would have been."""

from __future__ import annotations

import random

import pytest

from tests.generation.fake import FakeEngine, bytes_language
from tfgpt.errors import Failure
from tfgpt.generation import sampling
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.options import Options
from tfgpt.generation.stops import StopText


class Broken(FakeEngine):
    """Cannot read a prompt that begins with an exclamation mark."""

    def prefill_many(self, prompts):
        if any(ids[0] == ord("!") for ids in prompts.values()):
            raise MemoryError("no room\nfor this")
        return super().prefill_many(prompts)


def written(engine, jobs):
    decoding = Decoding(engine, bytes_language())
    numbers = [decoding.add(prompt, options) for prompt, options in jobs]
    while decoding.busy:
        decoding.step()
    return [decoding.result(number) for number in numbers]


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("where", ["prompt", "draw", "text"])
def test_a_broken_text_harms_no_other(monkeypatch, where, slots):
    draw = random.Random(slots)
    jobs = [(f"text {i}", Options(seed=i, length=draw.randint(1, 30), top_k=5)) for i in range(12)]
    right = written(FakeEngine(slots=slots), jobs)
    bad = {
        "prompt": ("!", Options(seed=1)),
        "draw": ("a", Options(seed=1, top_k=77)),
        "text": ("a", Options(seed=1, stop="~!")),
    }
    if where == "draw":
        own = sampling.draw
        monkeypatch.setattr(
            sampling,
            "draw",
            lambda logits, options, **more: own(logits, options, **more) if options.top_k != 77 else 1 / 0,
        )
    if where == "text":
        push = StopText.push
        monkeypatch.setattr(StopText, "push", lambda self, text: 1 / 0 if self._stops == ("~!",) else push(self, text))
    for place in (0, 5, 12):
        *_, found = mixed = written(Broken(slots=slots), [*jobs[:place], bad[where], *jobs[place:]])
        failed = mixed.pop(place)
        assert failed.finish == "error" and isinstance(failed.error, Failure) and failed.error.__cause__ is not None
        assert ("MemoryError: no room for this" if where == "prompt" else "ZeroDivisionError") in str(failed.error)
        assert [(one.text, one.tokens, one.finish) for one in mixed] == [
            (one.text, one.tokens, one.finish) for one in right
        ]


def test_a_step_that_fails_is_nobodys_own_and_is_told():
    class Dead(FakeEngine):
        def step(self, tokens):
            raise MemoryError("all")

    with pytest.raises(MemoryError):
        written(Dead(slots=2), [("a", Options(seed=1, length=5)), ("b", Options(seed=1, length=5))])
