"""Finding tokenizers by name and by file."""

from __future__ import annotations

import pickle
import shutil

import pytest

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers import loading
from tfgpt.tokenizers.byte import ByteTokenizer
from tfgpt.tokenizers.char import CharTokenizer


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A place with no ./encoder and no cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    "names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"), ("gpt2-vocab.json", "gpt2-merges.txt")]
)
def test_the_same_vocabulary_under_all_its_names(trained, trained_folder, tmp_path, names):
    for old, new in zip(("encoder.json", "vocab.bpe"), names, strict=True):
        shutil.copy(trained_folder / old, tmp_path / new)
    for path in (tmp_path, str(tmp_path), *(tmp_path / name for name in names)):
        assert tokenizers.load(path).fingerprint == trained.fingerprint
    (tmp_path / names[1]).unlink()
    for path in (tmp_path, tmp_path / names[0]):
        with pytest.raises(UserError, match=names[1]):
            tokenizers.load(path)


def test_a_file_of_the_present_folder(empty_home):
    ByteTokenizer().save(empty_home / "t")
    (empty_home / "t" / "byte.json").rename(empty_home / "byte.json")
    assert tokenizers.load("byte.json").kind == tokenizers.load(".").kind == "byte"


def test_two_tokenizers_in_one_folder(tmp_path):
    """The wrong meta.pkl beside the data has cost people whole trainings."""
    content = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(content))
    CharTokenizer("ab", with_eot=False).save(tmp_path)
    assert tokenizers.load(tmp_path).n_vocab == 2  # one tokenizer in two files
    CharTokenizer("ba", with_eot=False).save(tmp_path)
    with pytest.raises(UserError, match="different tokenizers in one folder: char.json and meta.pkl") as error:
        tokenizers.load(tmp_path)
    assert str(tmp_path / "char.json") in error.value.fix
    assert tokenizers.load(tmp_path / "char.json").encode("a") == [1]
    assert tokenizers.load(tmp_path / "meta.pkl").encode("a") == [0]


def test_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match="no tokenizer in this folder"):
        tokenizers.load(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        tokenizers.load(tmp_path / "absent")
    (tmp_path / "encoder.jso").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError) as error:
        tokenizers.load(tmp_path / "encoder.jso")
    assert error.value.nearest == '"encoder.json"'
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer.json alone is not read"):
        tokenizers.load(tmp_path)


def test_a_file_far_too_large_is_not_read(tmp_path):
    with open(tmp_path / "char.json", "wb") as stream:
        stream.truncate(loading.LARGEST + 1)  # sparse: nothing on the disk
    with pytest.raises(UserError, match="too large"):
        tokenizers.load(tmp_path)


def test_gpt2_is_looked_for_here_and_in_the_cache(empty_home, gpt2_encoder):
    with pytest.raises(UserError) as error:
        tokenizers.from_name("gpt2")
    assert error.value.fix == "tfgpt download encoder" and "cache" in error.value.where
    shutil.copytree(gpt2_encoder, empty_home / "cache" / "encoder")
    assert tokenizers.from_name("gpt2").encode("Hello world") == [15496, 995]
    (empty_home / "cache" / "encoder").rename(empty_home / "encoder")
    assert tokenizers.from_name("gpt2").n_vocab == 50257


def test_another_vocabulary_is_not_gpt2_unless_it_is_named(empty_home, trained, trained_folder):
    trained.save("encoder")
    with pytest.raises(UserError, match="not GPT-2's") as error:
        tokenizers.from_name("gpt2")
    assert error.value.where == "encoder" and "--encoder_path encoder" in error.value.fix
    assert tokenizers.from_name("gpt2", encoder_path=trained_folder).fingerprint == trained.fingerprint


def test_a_stranger_here_does_not_hide_the_true_one_in_the_cache(empty_home, trained, gpt2_encoder):
    trained.save("encoder")
    shutil.copytree(gpt2_encoder, empty_home / "cache" / "encoder")
    assert tokenizers.from_name("gpt2").n_vocab == 50257


def test_names_that_need_text(english):
    texts = ["banana", "é"]
    assert tokenizers.from_name("char", texts=texts).n_vocab == 5
    assert tokenizers.from_name("char+bytes", texts=lambda: iter(texts)).n_vocab == 4 + 257
    assert tokenizers.from_name("bpe:300", texts=lambda: iter([english[:50_000]])).n_vocab == 300
    for name in ("char", "char+bytes", "bpe:300"):
        with pytest.raises(UserError, match="made from text"):
            tokenizers.from_name(name)


@pytest.mark.parametrize("name", ["bpe", "bpe:", "bpe:many", "bpe:-5", "bpe:٣٠٠", "bpe:" + "9" * 30])
def test_a_size_that_is_none(name):
    with pytest.raises(UserError) as error:
        tokenizers.from_name(name, texts=["text"])
    assert error.value.nearest == '"bpe:4096"'


def test_unknown_names(empty_home):
    with pytest.raises(UserError) as error:
        tokenizers.from_name("gtp2")
    assert error.value.nearest == '"gpt2"'
    assert tokenizers.from_name("byte").kind == "byte"
    CharTokenizer("ab").save("mine")
    assert tokenizers.from_name("mine").encode("ba") == [1, 0]
