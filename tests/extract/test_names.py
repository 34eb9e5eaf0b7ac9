"""Names of files from names that nobody vouches for."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt.extract import names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RS_2017-04.tar.xz", "RS_2017-04"),
        ("RS_2017-04-1_data.xz", "RS_2017-04"),
        ("RS_v2_2009-12.zst", "RS_v2_2009-12"),
        ("wiki dump.tar.gz", "wiki_dump"),
        ("pages.tgz", "pages"),
        ("...", "documents"),
        ("aux.tar", "_aux"),
    ],
)
def test_group_is_the_month_or_the_name(name, expected):
    assert names.group(name) == expected


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("12345-0123abcd.html", "12345-0123abcd"),
        ("12345-0123abcd.txt", "12345-0123abcd"),
        ("./12345-0123abcd.html", "12345-0123abcd"),
        ("RS_2017-04/12345-0123abcd.html", "12345-0123abcd"),
        ("журнал.html", "журнал"),
    ],
)
def test_plain_names_stay(member, expected):
    assert names.text_name(member) == expected


HOSTILE = [
    "../../etc/passwd.html",
    "/etc/passwd.html",
    "C:\\windows\\system.html",
    "a\0b.html",
    "con.html",
    ".bashrc",
    "-rf.html",
    "..",
    "/",
    "",
    "x" * 5000 + ".html",
    "ж" * 5000 + ".html",
    "\udcff\udcfe.html",
    "a\nb.html",
    ".extract/journal.jsonl",
]


@pytest.mark.parametrize("member", HOSTILE)
def test_hostile_names_become_one_harmless_file(member, tmp_path):
    name = names.text_name(member) + ".txt"
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / name).write_text("x", encoding="utf-8")
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(tmp_path / "inside") == [name]
    assert not name.startswith((".", "-")) and not names.RESERVED.match(name)


def test_changed_names_never_meet():
    pairs = [
        ("a/b.html", "a_b.html"),
        ("a/b.html", "b/a.html"),
        ("x.htm", "x.html"),
        ("x.html.gz", "x.html"),
        ("é!.html", "é?.html"),
    ]
    for one, other in pairs:
        assert names.text_name(one) != names.text_name(other)


@given(st.text(max_size=300))
def test_any_name_is_one_short_path_component(member):
    name = names.text_name(member)
    assert name and "/" not in name and "\\" not in name and "\0" not in name and name not in (".", "..")
    assert len(name.encode("utf-8")) <= 140
    # "~" and "+" mark repeated names and second sources, so no page's own name may hold them.
    assert "~" not in name and "+" not in name
    assert name == names.text_name(member)
