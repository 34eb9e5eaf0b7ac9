"""The journal forgets nothing that it was told, and no damage to its end stops the next run."""

from __future__ import annotations

import json

import pytest

from tfgpt.errors import UserError
from tfgpt.extract.journal import Journal, digest

SETTINGS = {"engine": "newspaper", "language": "en", "min_characters": 1}


def write(path, pages=250, chunk=100):
    journal = Journal(path, SETTINGS)
    place, tag = journal.place("/a.tar", "RS_2017-04")
    ids = [digest(f"{n}.html", "10", str(n)) for n in range(pages)]
    outcomes = ["kef"[n % 3] for n in range(pages)]
    for start in range(0, pages, chunk):
        rows = [
            (ids[n], outcomes[n], f"{n}.html", "timed out: 30 s" if outcomes[n] == "f" else "")
            for n in range(pages)[start : start + chunk]
        ]
        journal.add(place, rows)
    journal.close()
    return place, ids


def test_what_was_added_is_known_to_the_next_run(tmp_path):
    path = tmp_path / "journal.jsonl"
    place, ids = write(path)
    again = Journal(path, SETTINGS)
    assert all(again.is_done(place, page) for page in ids)
    assert not again.is_done(place, digest("0.html", "11", "0")) and not again.is_done(place + 1, ids[0])
    assert again.counts == {"k": 84, "e": 83, "f": 83} and again.reasons == {"timed out": 83}
    assert again.place("/a.tar", "RS_2017-04") == (place, "")


@pytest.mark.parametrize("cut", range(1, 400, 23))
def test_a_broken_last_line_costs_that_line_alone(cut, tmp_path):
    path = tmp_path / "journal.jsonl"
    place, ids = write(path, pages=300)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Journal(path, SETTINGS)
    assert all(again.is_done(place, page) for page in ids[:200])
    # Without its newline alone the line is still whole; with less it does not count.
    assert [again.is_done(place, page) for page in ids[200:]] == [cut == 1] * 100
    again.add(place, [(page, "k", "", "") for page in ids[200:]])
    again.close()
    assert path.read_bytes().startswith(whole[:-cut]), "the journal is only ever appended to"
    after = Journal(path, SETTINGS)
    assert all(after.is_done(place, page) for page in ids)
    after.close()


def test_nonsense_lines_are_passed_over(tmp_path):
    path = tmp_path / "journal.jsonl"
    place, ids = write(path)
    with open(path, "ab") as stream:
        stream.write(b'[]\n7\nnull\n"x"\n{}\n{"pages":"%%","outcomes":"k","place":0}\n{"source":1}\n\xff\xfe\n')
        stream.write(b'{"place":0,"pages":"AAAAAAAAAAA=","outcomes":"kk","failed":[]}\n')
    again = Journal(path, SETTINGS)
    assert all(again.is_done(place, page) for page in ids) and again.counts.total() == 250


def test_sources_of_one_group_have_tags_that_stay(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    given = [journal.place(source, group) for source, group in [("/a", "m"), ("/b", "m"), ("/c", "n"), ("/d", "M")]]
    assert given == [(0, ""), (1, "+2"), (2, ""), (3, "+3")]
    journal.close()
    again = Journal(tmp_path / "j", SETTINGS)
    assert [
        again.place(source, group) for source, group in [("/d", "M"), ("/c", "n"), ("/b", "m"), ("/a", "m")]
    ] == given[::-1]


def test_finished_archives_are_known_until_they_change(tmp_path):
    journal = Journal(tmp_path / "j", SETTINGS)
    journal.finish("/a.tar", "10:5")
    journal.close()
    again = Journal(tmp_path / "j", SETTINGS)
    assert again.is_finished("/a.tar", "10:5")
    assert not again.is_finished("/a.tar", "11:5") and not again.is_finished("/b.tar", "10:5")


def test_other_settings_are_refused_by_name(tmp_path):
    write(tmp_path / "j")
    with pytest.raises(UserError) as caught:
        Journal(tmp_path / "j", {**SETTINGS, "engine": "trafilatura"})
    assert (
        "engine was 'newspaper' and is now 'trafilatura'" in str(caught.value) and "language" not in caught.value.what
    )


def test_it_is_compact(tmp_path):
    write(tmp_path / "j", pages=10_000)
    lines = [json.loads(line) for line in (tmp_path / "j").read_bytes().splitlines()]
    kept = [len(json.dumps({**line, "failed": []})) for line in lines if "pages" in line]
    assert sum(kept) / 10_000 < 14  # bytes a page: 8 million pages in about 100 MB
