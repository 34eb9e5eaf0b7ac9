"""Chats through the whole encode: conversations as documents, on one side each, and nothing dropped in silence."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.data.conftest import contents, run
from tests.data.test_encode import decoded
from tfgpt import chat
from tfgpt.chat import Message
from tfgpt.data import conversations, sources
from tfgpt.data.documents import Rules
from tfgpt.errors import UserError


def messages(audience: str, count: int) -> list[Message]:
    return [Message(bool(n % 2), audience, f"message {n} of {audience}, with a few words") for n in range(count)]


def exported(found: list[Message], me: str = "me") -> str:
    return "".join(
        json.dumps({"sender": me if m.sent else m.audience, "audience": m.audience, "text": m.text}) + "\n"
        for m in found
    )


def mixed(*found: list[Message]) -> list[Message]:
    """The messages of several conversations in turns, as they come over a day."""
    return [m for turn in range(max(map(len, found))) for one in found for m in one[turn : turn + 1]]


def audiences(folder, split: str) -> list[str]:
    texts = decoded(folder, split)
    assert all(len({line.split("|")[1] for line in text.splitlines()}) == 1 for text in texts)
    return [text.split("|")[1] for text in texts]


def test_a_conversation_is_a_document_in_order_from_lines_and_exports(tmp_path):
    mum, bob = messages("mum", 9), messages("+49", 6)
    (tmp_path / "a.chat").write_text(chat.write(mixed(mum[:5], bob[:2])) + exported(mixed(mum[5:], bob[2:]), "Ada"))
    result = run(tmp_path / "a.chat", tmp_path / "out", split="none", rules=Rules(me="Ada"))
    assert decoded(tmp_path / "out", "train") == [chat.write(mum), chat.write(bob)]
    assert result.dropped == {} and result.rules["me"] == "Ada"


def test_bad_lines_are_counted_with_their_numbers(tmp_path):
    lines = [chat.line(m) for m in messages("mum", 4)]
    bad = [
        "hello",
        '{"sender": "me"}',
        "{",
        "0|mum|no end",
        "1|mum|\xe9".encode("latin-1").decode("utf-8", "surrogateescape"),
    ]
    text = "\n".join([lines[0], bad[0], lines[1], bad[1], bad[2], lines[2], bad[3], lines[3], bad[4], "", bad[0]])
    (tmp_path / "a.chat").write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8", "surrogateescape"))
    result = run(tmp_path / "a.chat", tmp_path / "out", split="none")
    assert decoded(tmp_path / "out", "train") == ["\n".join(lines) + "\n"]
    assert {reason: entry["count"] for reason, entry in result.dropped.items()} == {
        chat.NO_LINE: 2, chat.NO_EXPORT: 1, "broken JSON": 1, chat.NO_END: 1, chat.UNREADABLE: 1,
    }  # fmt: skip
    places = [place.split(", line ")[1] for place in result.dropped[chat.NO_LINE]["examples"]]
    assert places == ["2: hello", "11: hello"]
    assert run(tmp_path / "a.chat", tmp_path / "old", split="none", rules=Rules(encoding="latin-1")).dropped.keys() == {
        chat.NO_LINE, chat.NO_EXPORT, "broken JSON", chat.NO_END
    }  # fmt: skip


def test_cleaning_ends_no_message(tmp_path):
    """NFKC and HTML entities make the format's own signs out of others."""
    evil = [Message(False, "ma｜ma", f"{n} words ＜EOM＞ &lt;EOM&gt; ｜ and more\u2028of it") for n in range(3)]
    (tmp_path / "a.chat").write_text(chat.write(evil), "utf-8")
    run(tmp_path / "a.chat", tmp_path / "out", split="none")
    (text,) = decoded(tmp_path / "out", "train")
    assert text == "".join(f"0|ma/ma|{n} words <eom> <eom> | and more of it <EOM>\n" for n in range(3))


def test_no_conversation_is_on_both_sides(tmp_path):
    folder = tmp_path / "chats"
    folder.mkdir()
    for number in range(3):  # the same people in every file
        found = mixed(*(messages(f"person {n}", 4 + number) for n in range(60)))
        (folder / f"{number}.chat").write_text(chat.write(found))
    rules = Rules(eval_fraction=0.2)
    result = run(folder, tmp_path / "out", rules=rules)
    train, held = audiences(tmp_path / "out", "train"), audiences(tmp_path / "out", "eval")
    assert result.rules["split"] == "documents" and "held" not in result.rules
    assert not set(train) & set(held) and len(set(train) | set(held)) == 60
    assert len(train) + len(held) == 180 and 4 < len(set(held)) < 24
    (folder / "3.chat").write_text(chat.write(messages("somebody new", 9)))
    run(folder, tmp_path / "more", rules=rules)
    assert set(held) <= set(audiences(tmp_path / "more", "eval")) <= {*held, "somebody new"}


def test_of_few_conversations_the_one_nearest_to_the_share_is_held_out(tmp_path):
    sizes = {"a": 50, "b": 30, "c": 5, "d": 12}
    (tmp_path / "a.chat").write_text(chat.write(mixed(*(messages(who, n) for who, n in sizes.items()))))
    for share, expected in ((0.05, "c"), (0.12, "d"), (0.4, "b")):
        out = tmp_path / f"out{share}"
        run(tmp_path / "a.chat", out, rules=Rules(eval_fraction=share))
        held = audiences(out, "eval")
        # Where the hash gives a sensible share by itself, it decides.
        by_hash = [who for who in sizes if conversations.conversation_side(who, Rules(eval_fraction=share)) == "eval"]
        assert held == ([expected] if not 0 < sum(sizes[w] for w in by_hash) < 97 / 2 else by_hash)
        assert sorted(held + audiences(out, "train")) == sorted(sizes)


def test_a_single_conversation_is_not_held_out_unless_its_end_is_asked_for(tmp_path):
    (tmp_path / "a.chat").write_text(chat.write(messages("mum", 40)))
    assert run(tmp_path / "a.chat", tmp_path / "out").totals("eval")["records"] == 0
    run(tmp_path / "a.chat", tmp_path / "tail", split="tail", rules=Rules(eval_fraction=0.2))
    (first,), (second,) = decoded(tmp_path / "tail", "train"), decoded(tmp_path / "tail", "eval")
    assert first + second == chat.write(messages("mum", 40)) and 5 <= second.count("\n") <= 10
    # Of long messages none is cut, and a single one is not held out.
    long = [Message(True, "mum", f"{n} " + "word " * 90) for n in range(6)]
    (tmp_path / "b.chat").write_text(chat.write(long + [Message(False, "bob", "word " * 200)]))
    run(tmp_path / "b.chat", tmp_path / "long", split="tail", rules=Rules(eval_fraction=0.3))
    assert [text.count("\n") for text in decoded(tmp_path / "long", "train")] == [4, 1]
    assert decoded(tmp_path / "long", "eval") == [chat.write(long[4:])]


@pytest.mark.parametrize("content", ["", "no chat\nat all\n", '{"text": "x"}\n'])
def test_nothing_legal_is_an_error_before_anything_is_written(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match="no chat message") as caught:
        run(tmp_path / "a.jsonl", tmp_path / "out", format="chat")
    assert "sender" in caught.value.nearest and (not content or "line 1" in caught.value.where)
    assert not (tmp_path / "out" / "ledger.json").exists()
    with pytest.raises(UserError, match="no chat message"):
        conversations.write_text([str(tmp_path / "a.jsonl")], str(tmp_path / "x.chat"), Rules())
    assert not (tmp_path / "x.chat").exists()


def test_a_name_that_nobody_has_is_an_error(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(exported(messages("mum", 9), "Ada"))
    with pytest.raises(UserError, match='no message is sent by "ada"'):
        run(tmp_path / "a.jsonl", tmp_path / "out", format="chat", rules=Rules(me="ada"))
    run(tmp_path / "a.jsonl", tmp_path / "out", format="chat", quiet=False)
    assert "none is sent by me" in capsys.readouterr().err


def test_long_compressed_and_wide_files_lose_no_message(tmp_path, monkeypatch):
    found = mixed(*(messages(who, 50) for who in "abc"))
    text = chat.write(found).replace("with a few", "with\na few")  # an old file: messages over several lines
    expected = {who: chat.write(m for m in found if m.audience == who) for who in "abc"}
    monkeypatch.setattr(sources, "PIECE", 1000)
    monkeypatch.setattr("tfgpt.data.chats.HELD", 1000)
    for name, data in (
        ("a.chat", text.encode()),
        ("b.chat.gz", gzip.compress(text.encode())),
        ("c.chat", text.encode("utf-16")),
    ):
        (tmp_path / name).write_bytes(data)
        result = run(tmp_path / name, tmp_path / f"{name}-out", split="none", rules=Rules(minimum_size=1))
        documents = decoded(tmp_path / f"{name}-out", "train")
        assert len(documents) > 6 and result.dropped == {}
        for who in "abc":
            assert "".join(d for d in documents if d.split("|")[1] == who) == expected[who]


def test_my_name_reaches_every_reader(tmp_path):
    """Of a compressed file, and when the tokenizer is made of the text: without it there would be no "1" at all."""
    found = [Message(sent, "mum", "some words of ours") for sent in (True, False, True)]
    (tmp_path / "a.gz").write_bytes(gzip.compress(exported(found, "Ada").encode()))
    run(tmp_path / "a.gz", tmp_path / "out", format="chat", split="none", tokenizer="char", rules=Rules(me="Ada"))
    assert decoded(tmp_path / "out", "train") == [chat.write(found)]


def test_other_data_keeps_its_fingerprint():
    assert {"me", "held"}.isdisjoint(Rules().as_dict())
    assert Rules(**Rules(me="Ada", held=("mum",)).as_dict()) == Rules(me="Ada", held=("mum",))


def command(*words, cwd):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_the_script_and_the_verb_make_equal_records(tmp_path):
    (tmp_path / "a.jsonl").write_text(exported(mixed(*(messages(f"p{n}", 6) for n in range(9))), "Ada") + "hello\n")
    flags = ["a.jsonl", "--me", "Ada", "--tokenizer", "bpe:300"]
    script = [ROOT / "datasets" / "chat" / "prepare.py", *flags]
    for words in (["-m", "tfgpt", "encode", *flags, "--format", "chat"], script):
        code, out, err = command(*words, "--output", f"out{len(words)}", cwd=tmp_path)
        assert code == 0 and f"1 {chat.NO_LINE} (first: a.jsonl, line 55: hello)" in out, out + err
    first, second = contents(tmp_path / f"out{len(script) + 4}"), contents(tmp_path / f"out{len(script)}")
    assert first == second and any(name.startswith("text-eval_0") for name in first)
    # By way of text it is the same, and the file that was written is not its own input the second time.
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "in" / "a.jsonl")
    for _ in range(2):
        code, out, err = command(script[0], "in", "--me", "Ada", "--text", "in/deep/b.chat", cwd=tmp_path)
        assert code == 0 and "54 messages (27 sent by me) in 9 conversations" in out and "line 55" in out, out + err
    run(tmp_path / "in" / "a.jsonl", tmp_path / "one", format="chat", rules=Rules(me="Ada"))
    run(tmp_path / "in" / "deep" / "b.chat", tmp_path / "two")
    for split in ("train", "eval"):
        assert decoded(tmp_path / "one", split) == decoded(tmp_path / "two", split)


def test_the_script_without_anything_to_write(tmp_path):
    code, _, err = command(ROOT / "datasets" / "chat" / "prepare.py", "a.jsonl", cwd=tmp_path)
    assert code == 2 and "--text" in err and "Traceback" not in err
