"""`tfgpt chat`: what the model reads, what of its words is shown, commands, signals, pipes, mistakes."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.generation.fake import generator
from tests.test_chat import NASTY
from tfgpt import chat
from tfgpt.cli import run_verb, turns
from tfgpt.generator import Generator
from tfgpt.serving import sanitizers, templates

EOT = 256


class Script:
    """Logits of a byte model that answers the n-th prompt with the n-th text; it keeps the prompts that it was given."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts, self.last = [text.encode() for text in texts], [], None

    def __call__(self, held):
        if held[:-1] != self.last:  # not one token more than the last time
            self.prompts.append(bytes(token for token in held if token < 256).decode())
            self.size = len(held)
        self.last = list(held)
        text = self.texts[(len(self.prompts) - 1) % len(self.texts)]
        row, at = np.full(257, -30.0, np.float32), len(held) - self.size
        row[text[at] if at < len(text) else EOT] = 30.0
        return row


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Generator.load gives one over a FakeEngine that writes what the test says."""
    settings = {"n_ctx": 400}

    def made(folder, **keys):
        found = generator(**{key: value for key, value in settings.items() if key != "config"})
        found.about, found.config = "a fake", settings.get("config")
        return found

    monkeypatch.setattr(Generator, "load", made)
    monkeypatch.chdir(tmp_path)
    return settings


def talk(monkeypatch, *lines: str, flags: str = "--template f11 --audience mum") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    try:
        return run_verb("tfgpt.cli.chat", ["DIR", *flags.split()], prog="tfgpt chat")
    except SystemExit as error:
        return int(error.code)


def test_a_conversation_in_the_chat_format(load, monkeypatch, capfd):
    load["logits"] = script = Script("Good. <EOM>\n1|mum|never said by me <EOM>", " Milk | and  bread\n1|mum|nor this")
    assert talk(monkeypatch, "On my way", "", "Anything else?", "Thanks") == 0
    assert capfd.readouterr().out == "Good.\n\nMilk | and bread\nGood.\n", "a line in, a line out"
    said = "1|mum|On my way <EOM>\n0|mum|Good. <EOM>\n1|mum|Anything else? <EOM>\n0|mum|Milk | and bread <EOM>\n"
    assert script.prompts == [
        said[: said.index("Good")],
        said[: said.index("Milk")],
        said + "1|mum|Thanks <EOM>\n0|mum|",
    ]
    assert all(list(chat.read(prompt.split("\n")))[:-1] for prompt in script.prompts)


def test_the_other_side_of_it(load, monkeypatch, capfd):
    load["logits"] = script = Script("Home <EOM>", "0|mum|I am mum <EOM>")
    assert talk(monkeypatch, "Where are you?", "And now?", flags="--template f11 --audience mum --as audience") == 0
    assert script.prompts[1] == "0|mum|Where are you? <EOM>\n1|mum|Home <EOM>\n0|mum|And now? <EOM>\n1|mum|"
    assert capfd.readouterr().out == "Home\n\n", "what it writes in the user's place is not shown"


def test_a_model_that_learnt_one_side_is_that_side(load, monkeypatch, capfd):
    from tfgpt.config import Config

    for keys, header in (({"loss_on": "sent"}, "1"), ({"loss_on": "received"}, "0"), ({"text": "a.chat.gz"}, "0")):
        load["logits"], load["config"] = (script := Script("ok <EOM>")), Config(data_path="x", **keys)
        assert talk(monkeypatch, "Hi", flags="--audience mum") == 0
        other = "0" if header == "1" else "1"
        assert script.prompts == [f"{other}|mum|Hi <EOM>\n{header}|mum|"], "known without a look at the model"


def test_a_model_that_knows_no_chats(load, monkeypatch, capfd):
    load["logits"] = script = Script("x", " Hello.\nHow are you?\nUser: I am", " Fine \n")
    assert talk(monkeypatch, "Hi", "And you?", flags="") == 0
    shown = capfd.readouterr()
    assert shown.out == "Hello. How are you?\nFine\n" and "not trained on chats" in shown.err
    talked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.\nHow are you?"}]
    assert script.prompts[-1] == templates.plain([*talked, {"role": "user", "content": "And you?"}])[0]


def test_a_model_that_knows_them_is_recognised(load, monkeypatch, capfd):
    line = chat.line(chat.Message(True, "user", "Hello"))
    scored, talked = Script(line), Script("Good <EOM>")

    def logits(held):
        return scored(held) if line.startswith(bytes(held[1:]).decode()) else talked(held)

    load["logits"] = logits
    assert talk(monkeypatch, "Hi", flags="") == 0
    shown = capfd.readouterr()
    assert shown.out == "Good\n" and "not trained" not in shown.err


def test_commands(load, monkeypatch, capfd):
    load["logits"] = script = Script("1 <EOM>", "2 <EOM>", "3 <EOM>")
    lines = [
        "a",
        "b",
        "/undo",
        "c",
        "/again",
        "/new",
        "//d",
        "/seed 7",
        "/seed",
        "/seed x",
        "/nonsense",
        "/undo",
        "/undo",
    ]
    assert talk(monkeypatch, *lines) == 0
    shown = capfd.readouterr()
    assert shown.out == "1\n2\n3\n1\n2\n"
    assert script.prompts[2] == script.prompts[3] == "1|mum|a <EOM>\n0|mum|1 <EOM>\n1|mum|c <EOM>\n0|mum|"
    assert script.prompts[4] == "1|mum|/d <EOM>\n0|mum|"
    for said in (
        "the seed is 7; 0 answers",
        "must be a whole number from 0",
        "no command '/nonsense'",
        "nothing was said",
    ):
        assert said in shown.err


def test_a_conversation_follows_from_its_seed(load, monkeypatch, capfd):
    def outputs(*lines, flags):
        assert talk(monkeypatch, *lines, flags=f"--template f11 --length 30 {flags}") == 0
        return capfd.readouterr().out.splitlines()

    first = outputs("a", "/again", "b", flags="--seed 4")
    assert first == outputs("a", "/again", "b", flags="--seed 4") and len(set(first)) == 3
    assert outputs("x", "/new", "/seed 4", "a", "/again", "b", flags="--seed 1")[1:] == first


def test_turns_are_left_out_whole_and_the_oldest_first(load, monkeypatch, capfd):
    load["logits"], load["n_ctx"] = (script := Script(*(f"answer {n} <EOM>" for n in range(9)))), 130
    assert talk(monkeypatch, *(f"line {n}" for n in range(9)), flags="--template f11 --length 20") == 0
    shown = capfd.readouterr()
    assert shown.out.splitlines() == [f"answer {n}" for n in range(9)]
    turns_ = [f"1|user|line {n} <EOM>\n0|user|answer {n} <EOM>\n" for n in range(9)]
    for n, prompt in enumerate(script.prompts):
        last = turns_[n].partition("answer")[0]
        fits = [m for m in range(n + 1) if len("".join(turns_[m:n]) + last) <= 130 - 20 + 1]
        assert prompt == "".join(turns_[min(fits) : n]) + last
    assert shown.err.count("oldest turns are left out") == 1 and "reads its end only" not in shown.err


def test_a_line_that_is_longer_than_the_context_is_answered(load, monkeypatch, capfd):
    load["logits"], load["n_ctx"] = Script("ok <EOM>"), 64
    assert talk(monkeypatch, "x" * 500, "y") == 0
    assert capfd.readouterr().out == "ok\nok\n"


def test_ctrl_c_stops_one_answer(load, monkeypatch, capfd):
    script = Script("abcdef <EOM>")

    def logits(held):
        if len(script.prompts) == 1 and len(held) == script.size + 2:
            os.kill(os.getpid(), signal.SIGINT)
        return script(held)

    load["logits"] = logits
    assert talk(monkeypatch, "x", "y") == 0
    assert capfd.readouterr().out == "abc\nabcdef\n"
    assert script.prompts[1] == "1|mum|x <EOM>\n0|mum|abc <EOM>\n1|mum|y <EOM>\n0|mum|", "what was said stays"


def test_what_the_tokenizer_does_not_know_ends_no_conversation(load, monkeypatch, capfd):
    from tfgpt.generation.language import Language
    from tfgpt.tokenizers.char import CharTokenizer

    letters = CharTokenizer("abc 01|<>EOM\nmu")
    load |= {"language": Language(letters, letters.n_vocab), "n_vocab": letters.n_vocab}
    assert talk(monkeypatch, "a", "z", "b", flags="--template f11 --audience mum --length 2 --greedy") == 0
    shown = capfd.readouterr()
    assert shown.out.count("\n") == 3 and "'z'" in shown.err and "Traceback" not in shown.err


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--template plain --audience mum", "--audience has no meaning"),
        ("--template plain --as me", "--as has no meaning"),
        ("--num_samples 2", "unrecognized"),
        ("--output x", "unrecognized"),
        ("--as you", "invalid choice"),
        ("--top_p 7", "above 0 and up to 1"),
    ],
)
def test_mistakes(load, monkeypatch, capfd, flags, said):
    monkeypatch.setattr(Generator, "load", None)  # told before anything is loaded
    assert talk(monkeypatch, flags=flags) == 2
    assert said in capfd.readouterr().err


# Of the whole, or with its marker: what is shown piece by piece is what the server's sanitizer makes of all of it.
@given(st.lists(NASTY | st.text(max_size=9), max_size=6), st.booleans(), st.booleans())
def test_shown_piece_by_piece_as_the_sanitizer_has_it(pieces, as_me, marked):
    form = turns.f11("mum", as_me=as_me)
    whole = "".join(pieces).partition(chat.EOM)[0]
    cuts = np.cumsum([len(piece) for piece in pieces])
    reply, shown = turns.Reply(form), ""
    for begin, end in zip([0, *cuts], cuts, strict=False):
        shown += reply.push(whole[begin:end])
        if reply.over:
            for more in ("x", "\n0|mum|x", "<EOM>\n", " 1|mum|y <EOM>"):
                assert sanitizers.chatbot(whole[:end] + more, sent=not as_me) == shown
    shown += reply.finish(chat.EOM if marked else None)
    assert shown == reply.text == sanitizers.chatbot(whole + chat.EOM * marked, sent=not as_me)


def test_on_a_terminal(tmp_path):
    """A real terminal and a real process: the prompt, the name before the reply, the reply, Ctrl-D."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.cli.test_chat_cli import Script, generator; from tfgpt.generator import Generator\n"
        "Generator.load = lambda folder, **keys: generator(n_ctx=99, logits=Script('Gut, ja \\u00f6 <EOM>'))\n"
        "from tfgpt.cli import main; sys.exit(main(['chat', 'DIR', '--template', 'f11', '--audience', 'mum']))"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(theirs)
    shown = b""
    try:
        # What is typed before the program listens is lost, as by a person.
        for typed, prompts in ((b"Hi\r", 1), (b"\x04", 2)):
            while shown.count(b"> ") < prompts and select.select([ours], [], [], 60)[0]:
                shown += os.read(ours, 1000)
            os.write(ours, typed)
        assert child.wait(60) == 0
    finally:
        child.kill()
        os.close(ours)
    assert "mum: Gut, ja ö\r\n" in shown.decode() and b"Ctrl-D" in child.stderr.read()
