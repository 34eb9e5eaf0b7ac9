"""Sanitizers: one reply of the other side, without the format, and otherwise as the model meant it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_chat import NASTY
from tfgpt.serving.sanitizers import chatbot, speech

ORDINARY = [
    "0 and 1 (maybe) + 2 = 3",
    "Meet at 5 -- or 6? [yes] {no} R&B",
    "See https://example.org/?a=1&b=2 for 1 | 2",
    "truth table: 0|1|1 and 1|0|1",
    "if x <E then y, <Enter> and <EOMS>",
    "I <3 you 😀🎉",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text):
    assert chatbot(text) == chatbot(f"{text} <EOM>") == chatbot(f"\n0|+49 123|{text} <EOM>\n1|+49 123|ok <EOM>") == text


@pytest.mark.parametrize(
    "text",
    [
        "\n0|mum|Good. Bring milk <EOM>\n1|mum|ok <EOM>\n0|mum|And bread <EOM>",
        "Good.  Bring\tmilk<EOM>0|mum|And bread",
        "EOM>0|mum|Good. Bring milk <EOM>",
        ">0|mum|Good. Bring milk <EO",
        "1|mum|and then? <EOM>\n0|mum|Good. Bring milk <EOM>",
        "Good. Bring milk <EOM 1|mum|ok",
        "Good. Bring milk <EO\n1|mum",
        "Good. Bring milk 0|Mum & dad|And bread <EOM>",
        "Good. Bring milk 1|+49 123|ok",
        "0|Good. Bring milk <EOM>",
        "|Good. Bring milk",
        "Good.\nBring milk\n1|mum|ok",
    ],
)
def test_one_reply_comes_out_of_what_models_write(text, monkeypatch):
    monkeypatch.delenv("DIXIE_NAMES", raising=False)
    assert chatbot(text) == "Good. Bring milk"


def test_names_that_look_like_none_can_be_told(monkeypatch):
    text = "Shaken 1|007|stirred"
    assert chatbot(text) == text
    monkeypatch.setenv("DIXIE_NAMES", "mum, 007,")
    assert chatbot(text) == "Shaken" and chatbot("007|Shaken") == "Shaken"


def test_no_reply_is_no_text():
    assert chatbot("") == chatbot("1|mum|I talk for myself <EOM>") == chatbot("<EOM>") == ""


@given(st.text() | NASTY | st.tuples(NASTY, st.text(), NASTY).map("".join))
def test_it_never_raises_and_never_adds(text):
    clean = chatbot(text)
    assert len(clean) <= len(text) and "<EOM>" not in clean and clean == " ".join(clean.split())
    assert "".join(clean.split()) in "".join(text.split())  # cut out in one piece
    assert len(speech(text)) >= len(clean)


@given(st.lists(st.text(st.characters(exclude_characters="|<", exclude_categories=["Z", "C"]), min_size=1)))
def test_text_without_a_sign_of_the_format_is_untouched(words):
    assert chatbot("  ".join(words)) == " ".join(words)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("NASA", "N A S A"),
        ("0|mum|The USA and the EU, OK? <EOM>\n1|mum|NO <EOM>", "The U S A and the E U, O K?"),
        ("2 PCs and an MP3", "2 P Cs and an M P3"),
        ("I am A. ÖBB", "I am A. Ö B B"),
        ("as is", "as is"),
        ("McDonald iOS", "McDonald iOS"),
    ],
)
def test_acronyms_are_spelled(text, spoken):
    assert speech(text) == spoken
