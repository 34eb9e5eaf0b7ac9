"""The chat format: what is written comes back, what is no message has a number, and a reply is one reply."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt import chat
from tfgpt.chat import Fault, Message

MESSAGES = st.lists(st.builds(Message, st.booleans(), st.text(), st.text()), max_size=6)
# Text that is dense in what could be mistaken for the format.
NASTY = st.lists(
    st.sampled_from(["<EOM>", "<EO", "<", "|", "0|a|", "1|+49|", "\n", "\r", " ", "0", "{", "\u2028", "é"])
).map("".join)


def as_written(text: str) -> str:
    """The stated rule, spelled out without the module's own patterns."""
    out = []
    for character in text:
        broken = len(("a" + character + "a").splitlines()) > 1
        out.append("\n" if broken else character)
    return re.sub("\n+", " ", "".join(out)).replace("<EOM>", "<eom>")


@given(MESSAGES | st.lists(st.builds(Message, st.booleans(), NASTY, NASTY), max_size=6))
def test_what_is_written_comes_back(messages):
    text = chat.write(messages)
    assert len(text.splitlines()) == text.count("\n") == text.count("<EOM>") == len(messages)
    expected = [Message(m.sent, as_written(m.audience).replace("|", "/"), as_written(m.text)) for m in messages]
    assert list(chat.read(text.split("\n"))) == expected
    assert list(chat.read(text.splitlines(keepends=True))) == expected


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\n")) | NASTY.map(lambda t: t.replace("\n", ""))))
def test_every_line_is_part_of_something_and_nothing_raises(lines):
    found = list(chat.read(lines))
    faults = [item for item in found if isinstance(item, Fault)]
    assert all(1 <= fault.line <= len(lines) for fault in faults)
    assert [f.line for f in faults] == sorted(f.line for f in faults)
    assert sum(f.reason == chat.UNREADABLE for f in faults) == sum(line is None for line in lines)
    if any(line and line.strip() for line in lines):
        assert found


def test_adversarial_lines():
    lines = [
        "1|+49123|a | b|c <EOM>",  # 1
        "0|mum|first line",
        "second, {not} JSON <EOM>",
        "0|mum|never ended",
        "really",
        "1|mum|next<EOM>",
        "hello",  # 7
        "2|mum|no such direction <EOM>",
        " 1|mum|indented <EOM>",
        "",
        "0|a|x <EOM> 1|a|y <EOM> z",  # 11
        "0||nobody <EOM>\r\n",
        "0|<EOM>|odd name <EOM>",
        None,
        "0|mum| <EOM>",
        "0|mum|end of file",
    ]
    assert list(chat.read(lines)) == [
        Message(True, "+49123", "a | b|c"),
        Message(False, "mum", "first line\nsecond, {not} JSON"),
        Fault(4, chat.NO_END, "lines 4 to 5"),
        Message(True, "mum", "next"),
        Fault(7, chat.NO_LINE, "hello"),
        Fault(8, chat.NO_LINE, "2|mum|no such direction <EOM>"),
        Fault(9, chat.NO_LINE, "1|mum|indented <EOM>"),
        Message(False, "a", "x"),
        Message(True, "a", "y"),
        Fault(11, chat.NO_LINE, "z"),
        Message(False, "", "nobody"),
        Message(False, "<EOM>", "odd name"),
        Fault(14, chat.UNREADABLE),
        Message(False, "mum", ""),
        Fault(16, chat.NO_END),
    ]


def test_a_file_that_never_ends_a_message_is_not_one_message(monkeypatch):
    monkeypatch.setattr(chat, "LONGEST", 100)
    first, *others = chat.read(["0|a|b", *["c" * 9] * 30, "1|a|hi <EOM>"])
    assert first == Fault(1, chat.TOO_LONG, "lines 1 to 11") and others[-1] == Message(True, "a", "hi")
    assert {type(other) for other in others[:-1]} == {Fault} and len(others) == 21


@pytest.mark.parametrize(
    ("sender", "sent"), [("me", True), (True, True), (False, False), ("Ada", True), ("ada", False)]
)
def test_who_sent_an_exported_message(sender, sent):
    exported = json.dumps({"sender": sender, "audience": "a|b", "text": "x\ny", "time": 3})
    assert list(chat.read([exported], me="Ada")) == [Message(sent, "a|b", "x\ny")]
    if sender == "Ada":
        assert list(chat.read([exported])) == [Message(False, "a|b", "x\ny")]


@pytest.mark.parametrize(
    ("exported", "reason", "detail"),
    [
        ('{"sender": "me", "audience": "a"}', chat.NO_EXPORT, "text is null"),
        ('{"sender": null, "audience": "a", "text": "x"}', chat.NO_EXPORT, "sender is null"),
        ('{"sender": "", "audience": "a", "text": "x"}', chat.NO_EXPORT, 'sender is ""'),
        ('{"sender": "me", "audience": 7, "text": "x"}', chat.NO_EXPORT, "audience is 7"),
        ('{"sender": "me"', "broken JSON", "Expecting"),
        ('{"a":' * 100_000, "broken JSON", "recursion"),
    ],
)
def test_a_bad_export_is_named(exported, reason, detail):
    (fault,) = chat.read([exported])
    assert (fault.line, fault.reason) == (1, reason) and detail in fault.detail


def test_a_lone_surrogate_can_be_stored():
    (message,) = chat.read([r'{"sender": "me", "audience": "a", "text": "x\ud800y \ud83d\ude00"}'])
    assert chat.line(message).encode("utf-8").decode("utf-8") == "1|a|x\ufffdy 😀 <EOM>"


def test_prompts():
    assert chat.turn("+49123", "hi | ho\n<EOM>") == "1|+49123|hi | ho <eom><EOM>"
    history = [Message(True, "mum", "hi"), Message(False, "mum", "yes?"), Message(True, "mum", "milk")]
    assert chat.prompt(history) == "1|mum|hi <EOM>\n0|mum|yes? <EOM>\n1|mum|milk <EOM>\n0|mum|"
    assert chat.prompt(history[:2]).endswith("\n1|mum|")
    with pytest.raises(ValueError):
        chat.prompt([])


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Come home <EOM>\n1|mum|Yes <EOM>", "Come home"),  # behind `prompt`
        ("\n0|mum|Come home <EOM>\n0|mum|Now <EOM>", "Come home"),  # behind `turn`
        (" 0|mum|a | b<EOM>0|mum|c<EOM>", "a | b"),
        ("\n1|mum|still me <EOM>\n0|mum|Come home <EOM>", "Come home"),
        ("\n1|mum|still me <EOM> lost words <EOM>\n0|mum|Come home <EOM>", "Come home"),
        ("Come home\n1|mum|Yes <EOM>", "Come home"),
        ("Come home\nnow\n1|mum|Y", "Come home\nnow"),
        *[(f"Come home {'<EOM>'[:n]}", "Come home") for n in range(6)],
        ("Come home\n0", "Come home"),
        ("Come home\n0|mu", "Come home"),
        ("0|mu", ""),
        ("0|mum|", ""),
        ("1|mum|only me <EOM>", ""),
        ("1|mum|only me", ""),
        ("", ""),
        ("0", "0"),
        ("a < b <EOM>", "a < b"),
        ("I <3 you", "I <3 you"),
        ("I < <EOM>", "I <"),  # ended, so nothing of it is half a marker
        ("0 and 1 (maybe) + 2 = 3", "0 and 1 (maybe) + 2 = 3"),
    ],
)
def test_the_first_reply_and_no_more(text, reply):
    assert chat.parse_reply(text) == reply


# From 2 on: a text that is nothing but "0" or "1" may be the answer as well as the beginning of a header.
@given(MESSAGES.filter(len), st.integers(2, 200))
def test_the_reply_of_any_continuation(messages, length):
    """Whole or cut off anywhere, what comes out is the beginning of the first received message."""
    text = chat.write(messages)
    received = [as_written(m.text).strip() for m in messages if not m.sent]
    assert chat.parse_reply("\n" + text) == (received[0] if received else "")
    assert (received[0] if received else "").startswith(chat.parse_reply(text[:length]))


@given(st.text() | NASTY, st.booleans())
def test_a_reply_is_part_of_the_text(text, sent):
    reply = chat.parse_reply(text, sent=sent)
    assert reply in text and "<EOM>" not in reply and reply == reply.strip()
