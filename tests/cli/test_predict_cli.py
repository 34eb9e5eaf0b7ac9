"""`tfgpt predict`, `tfgpt score` and the prediction flags of main.py: formats, files, mistakes, talking, signals."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.generation import fake
from tests.generation.fake import generator, written
from tfgpt.cli import run_verb
from tfgpt.generator import Generator

LINE = "=" * 40


def tfgpt(verb: str, *words: str) -> int:
    try:
        return run_verb(f"tfgpt.cli.{verb}", list(words), prog=f"tfgpt {verb}")
    except SystemExit as error:
        return int(error.code)


@pytest.fixture
def loads(monkeypatch, tmp_path):
    """Generator.load gives one over a FakeEngine, and notes what it was asked for; the present folder is an empty one."""
    asked = []
    settings = {"n_ctx": 16}

    def load(folder, **keys):
        asked.append({"folder": folder, **keys})
        made = generator(slots=keys["slots"], **settings)
        made.about = "a fake"
        return made

    monkeypatch.setattr(Generator, "load", load)
    monkeypatch.chdir(tmp_path)
    asked_and_settings = asked, settings
    return asked_and_settings


def text(prompt: str, **options) -> str:
    return prompt + generator().generate(prompt, **options)[0].text


def configured(**keys) -> None:
    keys = {"tokenizer": "byte", "data_path": "gone", "model_path": "run", "n_ctx": 16, **keys}
    with open("m.json", "w") as stream:
        json.dump(keys, stream)


def test_main_py_prints_and_appends_as_the_seed_did(loads, capfd):
    """Format A26: 40 signs, SAMPLE i, 40 signs; the text with its prompt; a line break and 80 signs. And it appends."""
    configured(predict_path="logs/out.txt", predict_batch_size=2, top_k=5)
    assert tfgpt("train", "--model", "m.json", "--predict_text", "Tö be", "--seed", "3") == 0
    samples = [result.text for result in generator().generate("Tö be", seed=3, num_samples=2, top_k=5)]
    expected = "".join(
        f"{LINE} SAMPLE {number} {LINE}\nTö be{sample}\n{LINE}{LINE}\n" for number, sample in enumerate(samples)
    )
    assert capfd.readouterr().out.encode() == expected.encode()
    assert open("logs/out.txt", "rb").read() == expected.encode()
    assert loads[0][0].pop("like").model_path == "run"
    assert loads[0][0] == {"folder": "run", "dtype": "auto", "slots": 2, "best": False, "tokenizer": None}
    words = ["--seed", "3", "--top_k", "2", "--num_samples", "1", "--length", "4"]
    assert tfgpt("train", "--model", "m.json", "--predict_text", "Tö be", *words) == 0
    more = f"{LINE} SAMPLE 0 {LINE}\n{text('Tö be', seed=3, top_k=2, length=4)}\n{LINE}{LINE}\n"
    assert open("logs/out.txt", "rb").read() == (expected + more).encode()


def test_a_file_as_prompt_and_as_main_py_calls_it(loads, capfd):
    configured()
    with open("prompt.txt", "w", encoding="utf-8-sig") as stream:
        stream.write("Öl\n")
    assert tfgpt("train", "--model", "m.json", "--predict_file", "prompt.txt", "--seed", "1") == 0
    assert text("Öl\n", seed=1) in capfd.readouterr().out
    assert tfgpt("train", "--model", "m.json", "--predict_file", "none.txt") == 2
    assert "no such file" in capfd.readouterr().err
    with open("latin.txt", "wb") as stream:
        stream.write(b"ab\xe9")
    assert tfgpt("train", "--model", "m.json", "--predict_file", "latin.txt") == 2
    assert "offset 2 is not UTF-8" in capfd.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        ("--predict_text a --predict_file b", "not allowed with"),
        ("--predict_text a --interactive", "not allowed with"),
        ("--predict_text a --greedy --temperature 1", "not allowed with"),
        ("--interactive --num_samples 2", "--num_samples has no meaning with --interactive"),
        ("--interactive --output x", "--output has no meaning with --interactive"),
        ("--predict_text a --eval_only", "--eval_only and --predict_text"),
        ("--top_k 5", "nothing is to be written"),
        ("--greedy", "nothing is to be written"),
        ("--predict_text a --top_k -1", "from 0 (all tokens) to 2147483647"),
        ("--predict_text a --top_k x", "from 0 (all tokens) to 2147483647"),
        ("--predict_text a --top_p 0", "above 0 and up to 1"),
        ("--predict_text a --top_p nan", "above 0 and up to 1"),
        ("--predict_text a --min_p 2", "from 0 (all tokens) to 1"),
        ("--predict_text a --temperature -1", "from 0 (always the likeliest token) to 100"),
        ("--predict_text a --repetition_penalty 0", "from 0.01 to 100"),
        ("--predict_text a --length 0", "from 1 to 1,000,000"),
        ("--predict_text a --num_samples 0", "from 1 to 10,000"),
        ("--predict_text a --seed 1.5", "from 0 to 9223372036854775807"),
        ("--predict_text a --dtype int4", "invalid choice"),
        ("--predict_text a --stop=", "1 to 1,000 characters"),
    ],
)
def test_mistakes_are_exit_2_with_what_is_legal(loads, capfd, words, said):
    configured()
    assert tfgpt("train", "--model", "m.json", *words.split()) == 2
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert not loads[0] and os.listdir(".") == ["m.json"], "nothing was loaded or made"


def test_predict_from_a_folder_alone(loads, capfd):
    assert tfgpt("predict", "DIR", "--text", "a b", "--seed", "5", "--top_p", "0.8", "--length", "9") == 0
    shown = capfd.readouterr()
    assert shown.out == text("a b", seed=5, top_p=0.8, length=9) + "\n" and "tfgpt: a fake" in shown.err
    assert os.listdir(".") == []
    assert tfgpt("predict", "DIR", "--best", "--tokenizer", "T", "--dtype", "int8", "--seed", "1") == 0
    assert capfd.readouterr().out == text("", seed=1) + "\n", "without a prompt: a document from nothing"
    assert loads[0][-1] == {"folder": "DIR", "dtype": "int8", "slots": 1, "best": True, "tokenizer": "T", "like": None}
    assert tfgpt("predict", "DIR", "--text", "ab", "--length", "9") == 0
    shown = capfd.readouterr()
    assert "--dtype float32 writes the same again" in shown.err
    seed = int(shown.err.split("--seed ")[1].split()[0])
    assert shown.out == text("ab", seed=seed, length=9) + "\n", "the seed that is told writes the same again"
    assert tfgpt("predict", "DIR", "--text", "ab", "--greedy", "--output", "kept", "--num_samples", "2") == 0
    assert open("kept").read() == capfd.readouterr().out and open("kept").read().count("SAMPLE") == 2
    configured(predict_path="out.txt")
    words = ["--predict_text", "a\udcff", "--output", "too", "--seed", "1", "--length", "3"]
    assert tfgpt("train", "--model", "m.json", *words) == 0, "a word that is not UTF-8, as Python hands it on"
    assert open("too").read() == open("out.txt").read() and "\na\ufffd" in open("too").read()


def test_stop_strings_and_end_of_text(loads, capfd):
    loads[1]["logits"] = written("one. two", eot=True)
    assert tfgpt("predict", "DIR", "--text", "x", "--stop", "zz", "--stop", ". t") == 0
    assert capfd.readouterr().out == "xone\n"
    assert tfgpt("predict", "DIR", "--text", "x") == 0
    assert capfd.readouterr().out == "xone. two\n"
    assert tfgpt("predict", "DIR", "--text", "x", "--ignore_eot", "--length", "10") == 0
    assert capfd.readouterr().out == "xone. two<|endoftext|> \n"


def test_a_file_of_prompts(loads, capfd):
    lines = [
        '"plain\\ud800"',
        "",
        '{"prompt": "ü", "id": {"n": 7}, "num_samples": 2, "temperature": 0.5, "stop": "e"}',
        '{"prompt": "", "seed": 9, "length": 3, "logit_bias": {"65": 50}}',
    ]
    with open("p.jsonl", "w") as stream:
        stream.write("\n".join(lines) + "\n")
    assert tfgpt("predict", "DIR", "--prompts", "p.jsonl", "--seed", "2", "--length", "6") == 0
    printed = capfd.readouterr().out
    found = [json.loads(line) for line in printed.splitlines()]
    assert [(line["prompt"], line["sample"], line["seed"]) for line in found] == [
        ("plain\ufffd", 0, 2), ("ü", 0, 2), ("ü", 1, 2), ("", 0, 9),
    ]  # fmt: skip
    assert found[1]["id"] == {"n": 7} and "id" not in found[0]
    asked = [{}, *[{"temperature": 0.5, "stop": "e"}] * 2, {"length": 3, "logit_bias": {65: 50}}]
    for line, keys in zip(found, asked, strict=True):
        keys = {"seed": line["seed"], "length": 6, "logprobs": True, "num_samples": line["sample"] + 1} | keys
        result = generator().generate(line["prompt"], **keys)[-1]
        assert (line["text"], line["tokens"], line["finish"]) == (result.text, result.tokens, result.finish)
        assert line["logprobs"] == [round(number, 5) for number in result.logprobs]
    assert tfgpt("predict", "DIR", "--prompts", "p.jsonl", "--seed", "2", "--length", "6", "--output", "a.jsonl") == 0
    assert open("a.jsonl").read() == printed and loads[0][-1]["slots"] == 4


def test_mistakes_in_a_file_of_prompts_are_told_at_once(loads, capfd):
    lines = [
        '{"prompt": "a", "top_p": 3}',
        '{"promt": "a"}',
        "nonsense",
        "[1]",
        '{"prompt": "b", "temprature": 1}',
        '"good"',
    ]
    with open("p.jsonl", "w") as stream:
        stream.write("\n".join(lines))
    assert tfgpt("predict", "DIR", "--prompts", "p.jsonl") == 2
    told = capfd.readouterr().err
    for said in ("5 mistakes in p.jsonl", "above 0 and up to 1", "p.jsonl, line 3", "not JSON", '"temperature"'):
        assert said in told
    assert not loads[0]


def talk(monkeypatch, *lines: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    return tfgpt("predict", "DIR", "--interactive", "--seed", "4", "--top_k", "9")


def test_talking_keeps_what_was_said(loads, capfd, monkeypatch):
    assert talk(monkeypatch, "ab", "cd", "", "/new", "ab") == 0
    shown = capfd.readouterr().out
    maker, said, history = generator(), [], ""
    for turn, line in enumerate(["ab", "\ncd", "", "NEW", "ab"]):
        if line == "NEW":
            history = ""
            continue
        history += line
        turn -= turn > 3
        (stream,) = maker.open([(history, _options(seed=4, top_k=9, length=8))], sample=turn)
        said.append(stream.finished().text)
        history += said[-1]
    assert shown == "".join(answer + "\n" for answer in said)


def test_talking_by_way_of_main_py(loads, capfd, monkeypatch):
    configured(predict_batch_size=5, predict_path="out.txt")
    monkeypatch.setattr(sys, "stdin", io.StringIO("ab\n"))
    assert tfgpt("train", "--model", "m.json", "--interactive", "--seed", "4") == 0
    assert capfd.readouterr().out == generator().generate("ab", seed=4, length=8)[0].text + "\n"
    assert loads[0][0]["slots"] == 1 and not os.path.exists("out.txt")


def _options(**keys):
    from tfgpt.generation.options import Options

    return Options(**keys)


def test_ctrl_c_stops_one_answer_and_no_more(loads, capfd, monkeypatch):
    """A real SIGINT in the middle of the first answer; the second one is whole."""
    calls, before = [], signal.getsignal(signal.SIGINT)

    def logits(held):
        calls.append(held)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return written("abcdefghijklmnop")(held)

    loads[1]["logits"] = logits
    assert talk(monkeypatch, "x", "/new", "y") == 0
    assert capfd.readouterr().out == "abc\nabcdefgh\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_ends_it(loads, capfd, monkeypatch):
    def logits(held):
        if len(held) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return written("abcdefghijklmnop")(held)

    loads[1]["logits"] = logits
    assert talk(monkeypatch, "x", "y") == 143
    assert capfd.readouterr().out == "abc\n"


def test_score(loads, capfd):
    score = generator().score("né")
    assert tfgpt("score", "DIR", "--text", "né", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["tokens"] == [110, 195, 169] and found["pieces"] == ["n", "\ufffd", "\ufffd"]
    assert found["logprobs"] == score.logprobs and found["perplexity"] == score.perplexity and found["bytes"] == 3
    with open("long.txt", "w") as stream:
        stream.write("to be or not " * 5)
    assert tfgpt("score", "DIR", "--file", "long.txt") == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 66 and "65 tokens, 65 bytes" in lines[-1] and "8 windows" in lines[-1]
    assert float(lines[0].split()[0]) == pytest.approx(generator().score("t").total, abs=1e-4)
    assert tfgpt("score", "DIR", "--file", "long.txt", "--summary") == 0
    assert capfd.readouterr().out.splitlines() == lines[-1:]
    assert tfgpt("score", "DIR", "--text", "") == 2 and tfgpt("score", "DIR") == 2
    assert tfgpt("score", "DIR", "--text", "a", "--file", "b") == 2


def test_a_folder_without_a_checkpoint_is_told_before_tensorflow_is_loaded(tmp_path):
    for verb in ("predict", "score"):
        words = [f"tfgpt.cli.{verb}", [str(tmp_path / "none"), "--text", "a"]]
        code = f"import sys; from tfgpt.cli import run_verb; c = run_verb(*{words!r}, prog='p'); print('tensorflow' in sys.modules); sys.exit(c)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "no such folder" in done.stderr and done.stdout == "False\n"


def test_fake_engine_is_used_as_the_contract_says():
    """What these tests stand on refuses what an engine may not be asked."""
    engine = fake.FakeEngine(n_ctx=2)
    engine.prefill_many({0: [1, 2]})
    with pytest.raises(AssertionError):
        engine.step({0: 3})
