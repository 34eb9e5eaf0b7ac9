"""`clean` against ftfy itself: the fast path must pass by exactly what ftfy leaves unchanged, and nothing else."""

from __future__ import annotations

import itertools
import pydoc_data.topics

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.data import cleaning
from tfgpt.data.cleaning import clean

ASCII = "abzAZ019 .,;:!?&<>\"'()\n\n\t"
UNUSUAL = "ÃÂŒœØÙÐ×√≈‚€™°²³¼¤¨ª\x80\x9f\x85\r\x0b\x0c\x00\x1b[\x7f\ufeff\ufffd\u2028\u2029ﬁＡ\u3000\u0301\u0308\u1100\u1161\uac00\ud800"
FOREIGN = "ПриветЂЎвГяЁ中文字かなアンヴ가나שלוםمرحباελληνικά\u3099ーｱไทย"
ENTITIES = [
    "&amp;",
    "&lt;",
    "&eacute;",
    "&#8217;",
    "&hellip;",
    "&nbsp",
    "â€™",
    "Ã©",
    "Â ",
    "вЂ",
    "<b>",
    "\r\n",
    "\x1b[31m",
]


def reference(text: str) -> str:
    return ftfy.fix_text(text, normalization="NFKC")


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(ASCII),
            st.sampled_from(cleaning._CANDIDATES),
            st.sampled_from(UNUSUAL + FOREIGN),
            st.sampled_from(ENTITIES),
        ),
        max_size=14,
    ).map("".join)
)
def test_equals_ftfy_on_mixtures(text):
    assert clean(text) == reference(text)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40))
def test_equals_ftfy_on_any_unicode(text):
    assert clean(text) == reference(text)


def test_every_known_character_between_every_kind_of_neighbour():
    neighbours = ["", "a", "Z", " ", "1", ".", "\n", "é", "“", "я", "中", "Â", "&", "<"]
    characters = cleaning._CANDIDATES + "АяЁё中字あア가아ءيאת"
    for character, before, after in itertools.product(characters, neighbours, neighbours):
        text = f"x {before}{character}{after} y"
        assert clean(text) == reference(text), text


def test_neutral_ranges_are_neutral_character_by_character():
    import re

    neutral = [chr(c) for c in range(0x10000) if re.match(f"[{cleaning.NEUTRAL}]", chr(c))]
    assert len(neutral) > 30_000
    for start in range(0, len(neutral), 500):
        line = "".join(neutral[start : start + 500])
        assert reference(line) == line == clean(line)


@pytest.mark.parametrize(
    "text",
    [
        "one &amp; two\n<b>three &amp; four</b>\nfive &amp; six",
        "&lt;b&gt; first\n& then <i>\n&amp;",
        "a" * 1_000_050 + "é&amp;" + "b" * 10 + "\n&amp;",
        "x" * 1_000_001 + "<" + "&amp;" * 3,
        "don’t\n“quoted” — and…\nbroken: âœ” ok\n",
        "trailing carriage return\r",
        "\n\n\n",
        "",
    ],
)
def test_lines_entities_and_long_segments(text):
    assert clean(text) == reference(text)


def test_real_english_goes_by_almost_untouched(monkeypatch):
    english = "\n".join(pydoc_data.topics.topics.values()).replace("'", "’")
    expected = reference(english)
    seen = []
    original = ftfy.fix_text
    monkeypatch.setattr(
        cleaning.ftfy, "fix_text", lambda text, config: seen.append(len(text)) or original(text, config)
    )
    assert clean(english) == expected
    assert sum(seen) < 0.05 * len(english), "the fast path must carry English text"
