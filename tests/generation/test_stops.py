"""Stop strings against a search through the whole text, cut into pieces at random."""

from __future__ import annotations

import random

import pytest

from tfgpt.generation.stops import StopText


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: the first end of any stop string; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("seed", range(4))
def test_any_cut_into_pieces_gives_the_same(seed):
    draw = random.Random(seed)
    found = 0
    for _ in range(1500):
        text = "".join(draw.choices("abé", k=draw.randint(0, 25)))
        stops = ["".join(draw.choices("abé", k=draw.randint(1, 5))) for _ in range(draw.randint(0, 4))]
        whole, stopped = cut(text, stops)
        watch, shown, rest = StopText(stops), "", text
        while rest:
            size = draw.randint(0, 4)
            shown += watch.push(rest[:size])
            rest = rest[size:]
            assert whole.startswith(shown), "nothing of a stop string is ever shown"
        shown += watch.finish()
        assert (shown, watch.found) == (whole, stopped)
        found += stopped is not None
    assert 300 < found < 1400


def test_no_more_is_held_back_than_may_become_a_stop_string():
    watch = StopText(["###", "\n\nQ:"])
    assert [watch.push(piece) for piece in ("one #", "two", "##", "\n", "\nA")] == ["one ", "#two", "", "##", "\n\nA"]
    assert watch.push(" ##") == " " and watch.finish() == "##"


def test_the_stop_string_that_is_complete_first_counts():
    for pieces in (["xabc"], ["xa", "bc"], list("xabc")):
        watch = StopText(["abc", "b"])
        assert "".join(watch.push(piece) for piece in pieces) + watch.finish() == "xa" and watch.found == "b"
