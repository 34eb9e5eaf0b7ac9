"""`tfgpt tokenizer` as a person types it."""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys

import pytest

from tfgpt import tokenizers
from tfgpt.cli import main
from tfgpt.cli import tokenizer as verb


@pytest.fixture
def corpus(tmp_path):
    """A folder of text in several forms."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("the cat sat on the mat. " * 400, encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"text": "the dog and the log " * 400}) + "\n", encoding="utf-8")
    (folder / "c.txt.gz").write_bytes(gzip.compress(("the frog é " * 400).encode()))
    return folder


def test_train_then_show(corpus, tmp_path, capsys):
    output = tmp_path / "new" / "tokenizer"
    assert main(["tokenizer", "train", str(corpus), "--size", "280", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert f"{output}: 280 ids from 0.0 MB" in said and "bytes an id" in said and "tfgpt tokenizer show" in said
    tokenizer = tokenizers.load(output)
    assert tokenizer.n_vocab == 280
    assert b" the" in tokenizer.pieces
    assert len(tokenizer.encode("the cat sat on the mat. the dog é")) < 33

    assert main(["tokenizer", "show", str(output)]) == 0
    said = capsys.readouterr().out
    longest = max(len(p) for i, p in enumerate(tokenizer.pieces) if i != tokenizer.eot)
    assert "n_vocab      280" in said and "eot          279" in said and tokenizer.fingerprint in said
    first = said.split("longest pieces\n")[1].split("\n")[0].split(maxsplit=1)
    assert len(tokenizer.pieces[int(first[0])]) == longest and len(eval(first[1])) == longest

    assert main(["tokenizer", "show", str(output), "--text", "the é\n"]) == 0
    said = capsys.readouterr().out
    ids = tokenizer.encode("the é\n")
    rows = [line.split(maxsplit=1) for line in said.split(tokenizer.fingerprint + "\n")[1].splitlines()[:-1]]
    assert [int(row[0]) for row in rows] == ids
    assert f"{len(ids)} ids for 7 bytes" in said


def test_the_same_command_gives_the_same_files(corpus, tmp_path):
    for name in ("one", "two"):
        assert main(["tokenizer", "train", str(corpus), "--size", "270", "--output", str(tmp_path / name)]) == 0
    assert tokenizers.load(tmp_path / "one").fingerprint == tokenizers.load(tmp_path / "two").fingerprint


@pytest.mark.parametrize(("kind", "extra"), [("char", 1), ("char+bytes", 257)])
def test_characters(corpus, tmp_path, capsys, kind, extra):
    output = tmp_path / "t"
    assert main(["tokenizer", "train", str(corpus), "--kind", kind, "--output", str(output)]) == 0
    alphabet = set("the cat sat on the mat. the dog and the log the frog é ")
    assert alphabet <= set(tokenizers.load(output).alphabet)
    assert tokenizers.load(output).n_vocab == len(tokenizers.load(output).alphabet) + extra
    assert (
        main(["tokenizer", "train", str(corpus), "--kind", kind, "--size", "300", "--output", str(tmp_path / "u")]) == 2
    )
    assert "--size is for byte pairs" in capsys.readouterr().err


def test_too_little_text_is_said(corpus, tmp_path, capsys):
    assert main(["tokenizer", "train", str(corpus / "a.txt"), "--output", str(tmp_path / "t")]) == 0
    n_vocab = tokenizers.load(tmp_path / "t").n_vocab
    assert f"note: the text gives only {n_vocab} ids, not 4096" in capsys.readouterr().err


def test_limit(corpus, tmp_path, capsys):
    (corpus / "a.txt").write_text("abc" * 1000 + "xyz" * 1000, encoding="utf-8")
    arguments = ["tokenizer", "train", str(corpus / "a.txt"), "--kind", "char", "--limit", "3kB"]
    assert main([*arguments, "--output", str(tmp_path / "t")]) == 0
    assert tokenizers.load(tmp_path / "t").alphabet == "abc"


def test_limit_counts_bytes_over_several_texts_and_cuts_no_character():
    class Bar:
        done = 0

        def update(self, amount):
            self.done += amount

    for limit, expected in [
        (4, ["ab", "é"]),
        (5, ["ab", "é"]),
        (6, ["ab", "éé"]),
        (2, ["ab"]),
        (99, ["ab", "éé", "c"]),
    ]:
        bar, sample = Bar(), []
        assert list(verb._counted(["ab", "éé", "c"], limit=limit, bar=bar, sample=sample)) == expected
        assert bar.done == len("".join(expected).encode()) and sample == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("500MB", 5 * 10**8), ("10kb", 10**4), ("1.5m", 1_500_000), ("7", 7), ("2 T", 2 * 10**12)],
)
def test_sizes(text, size):
    assert verb._size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "1XB", "1e9", "٣GB", "nan", "1" * 40])
def test_sizes_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        verb._size(text)


def test_an_output_folder_in_use_is_left_alone(corpus, tmp_path, capsys):
    output = tmp_path / "t"
    assert main(["tokenizer", "train", str(corpus), "--size", "260", "--output", str(output)]) == 0
    before = tokenizers.load(output).fingerprint
    assert main(["tokenizer", "train", str(corpus), "--size", "270", "--output", str(output)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert tokenizers.load(output).fingerprint == before


@pytest.mark.parametrize("size", ["256", "0", "-3"])
def test_a_size_too_small(corpus, tmp_path, capsys, size):
    assert main(["tokenizer", "train", str(corpus), f"--size={size}", "--output", str(tmp_path / "t")]) == 2
    assert "nearest: 257" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_nothing_to_train_on(tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    assert main(["tokenizer", "train", str(tmp_path / "empty.txt"), "--output", str(tmp_path / "t")]) == 2
    assert "no text" in capsys.readouterr().err
    assert main(["tokenizer", "train", str(tmp_path / "absent"), "--output", str(tmp_path / "t")]) == 2
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_common_options_stand_anywhere(capsys):
    assert main(["tokenizer", "show", "byte", "--text", "hi", "-v"]) == 0
    assert main(["tokenizer", "-v", "show", "byte", "--text", "hi"]) == 0
    assert capsys.readouterr().out.count("2 ids for 2 bytes, 1.00 bytes an id") == 2
    with pytest.raises(Exception, match="no tokenizer"):
        main(["tokenizer", "show", "no_such_name", "--debug"])


def test_help_and_no_tensorflow():
    code = (
        "import sys\nfrom tfgpt.cli import main\n"
        "assert main(['tokenizer', 'show', 'byte']) == 0\nassert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "eot          256" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "tfgpt", "tokenizer", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("tfgpt tokenizer show my_tokenizer") == 1
