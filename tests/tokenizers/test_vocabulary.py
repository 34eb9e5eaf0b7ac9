"""encoder.json and vocab.bpe: what is accepted, and what is said about the rest."""

from __future__ import annotations

import json

import pytest

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers.vocabulary import BYTE_OF_SYMBOL, SYMBOL_OF_BYTE, Vocabulary, token_bytes

IDS = {t: i for i, t in enumerate([*SYMBOL_OF_BYTE.values(), "th", "the", "<|endoftext|>"])}
MERGES = "#version: 0.2\nt h\nth e\n"


def load(tmp_path, encoder=None, merges=MERGES):
    encoder = json.dumps(IDS) if encoder is None else encoder
    for name, content in (("encoder.json", encoder), ("vocab.bpe", merges)):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return tokenizers.load(tmp_path)


def test_byte_table_like_transformers():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert bytes_to_unicode() == SYMBOL_OF_BYTE
    assert list(bytes_to_unicode()) == list(SYMBOL_OF_BYTE)
    assert (SYMBOL_OF_BYTE[0x20], SYMBOL_OF_BYTE[0x0A]) == ("\u0120", "\u010a")
    assert all(BYTE_OF_SYMBOL[SYMBOL_OF_BYTE[b]] == b for b in range(256))


@pytest.mark.parametrize(
    "merges",
    [
        MERGES.replace("\n", "\r\n"),
        MERGES.split("\n", 1)[1],
        MERGES.rstrip("\n"),
        MERGES + "\n\r\n",
        "\ufeff" + MERGES,
        MERGES.replace("0.2", "0.2 - Trained by `huggingface/tokenizers`"),
    ],
    ids=["CRLF", "no version", "no last newline", "blank end", "byte order mark", "other version"],
)
def test_harmless_differences_are_accepted(tmp_path, merges):
    tokenizer = load(tmp_path, merges=merges)
    assert [tokenizer.pieces[i] for i in tokenizer.encode("then th")] == [b"the", b"n", b" ", b"th"]
    assert tokenizer.fingerprint == load(tmp_path).fingerprint


def test_a_merge_may_begin_with_a_number_sign(tmp_path):
    ids = IDS | {"##": len(IDS)}
    tokenizer = load(tmp_path, encoder=json.dumps(ids), merges="# #\n")
    assert tokenizer.encode("##") == [ids["##"]]


def replaced(key, value):
    return json.dumps({t: (value if t == key else i) for t, i in IDS.items()})


@pytest.mark.parametrize(
    ("encoder", "what", "where"),
    [
        ("{", "not JSON", "encoder.json, line 1, column 2"),
        ('{\n "a": 0,\n}', "not JSON", "encoder.json, line"),
        ("[1]", "one JSON object", "encoder.json"),
        ("[" * 100_000, "not a vocabulary", "encoder.json"),
        ('{"a": ' + "9" * 5000 + "}", "not a vocabulary", "encoder.json"),
        (b"\xff\xfe{", "not UTF-8 text: byte 0 is 0xFF", "encoder.json"),
        ('{"a": 0, "b": 1, "a": 2}', "'a' stands there twice", "encoder.json"),
        (replaced("th", 3), "id 3 belongs to two tokens, '$' and 'th'", "encoder.json"),
        (replaced("th", 999), "no token has id 256, while 'th' has id 999", "encoder.json"),
        (replaced("th", -1), "no token has id 256, while 'th' has id -1", "encoder.json"),
        (replaced("th", "256"), "the id of 'th' must be a whole number", "encoder.json"),
        (replaced("th", 256.0), "the id of 'th' must be a whole number", "encoder.json"),
        (replaced("th", True), "the id of 'th' must be a whole number", "encoder.json"),
        ('{"a": 0}', "255 of the 256 bytes have no token, the first of them 0x21", "encoder.json"),
    ],
)
def test_a_bad_encoder_is_explained(tmp_path, encoder, what, where):
    with pytest.raises(UserError) as error:
        load(tmp_path, encoder=encoder)
    assert what in error.value.what
    assert error.value.where.startswith(str(tmp_path / where))


@pytest.mark.parametrize(
    ("merges", "what", "line"),
    [
        ("#version: 0.2\nt h\nth x\n", "needs the token 'thx'", 3),
        ("t h\nhe y\n", "needs the token 'he'", 2),
        ("#version: 0.2\nt\n", "two tokens with one space", 2),
        ("#version: 0.2\nt h e\n", "two tokens with one space", 2),
        ("#version: 0.2\nt h\n\nth e\n", "two tokens with one space", 3),
        ("#version: 0.2\n t\n", "two tokens with one space", 2),
        ("t h\n#version: 0.2\n", "needs the token '#version:'", 2),
    ],
)
def test_bad_merges_are_explained_by_line(tmp_path, merges, what, line):
    with pytest.raises(UserError) as error:
        load(tmp_path, merges=merges)
    assert what in error.value.what
    assert error.value.where == f"{tmp_path / 'vocab.bpe'}, line {line}"


def test_the_nearest_token_is_offered(tmp_path):
    with pytest.raises(UserError) as error:
        load(tmp_path, merges="t h\nthx e\n")
    assert error.value.nearest == '"th"'


def test_a_merge_of_symbols_that_are_no_bytes(tmp_path):
    ids = IDS | {"中": len(IDS), "中t": len(IDS) + 1}
    with pytest.raises(UserError, match="stands for no byte"):
        load(tmp_path, encoder=json.dumps(ids), merges="中 t\n")


def test_special_tokens_decode_to_their_own_text(tmp_path):
    ids = IDS | {"<pad>": len(IDS), "<中>": len(IDS) + 1, "": len(IDS) + 2}
    tokenizer = load(tmp_path, encoder=json.dumps(ids))
    assert tokenizer.decode([ids["<pad>"], ids["the"], ids["<中>"], ids[""]]) == "<pad>the<中>"
    assert not {ids["<pad>"], ids["<中>"], ids[""]} & set(tokenizer.encode("<pad><中>"))
    assert token_bytes("\u0120a") == b" a"


def test_no_end_of_text_is_none(tmp_path):
    ids = {t: i for t, i in IDS.items() if t != "<|endoftext|>"}
    tokenizer = load(tmp_path, encoder=json.dumps(ids))
    assert tokenizer.eot is None and tokenizer.n_vocab == len(ids)


def test_a_pair_listed_twice_counts_where_it_stands_last():
    """GPT-2's table is a dictionary made from the list, so the later rank is the one that holds."""
    merges = [("a", "b"), ("b", "c"), ("a", "b")]
    assert Vocabulary({}, merges).ranks() == {"ab": 2, "bc": 1}


@pytest.mark.parametrize("kept", [0.0, 0.4])
def test_a_merges_file_that_was_cut_at_a_line_is_refused(trained, kept):
    files = trained.files()
    lines = files["vocab.bpe"].split(b"\n")
    cut = b"\n".join(lines[: 1 + int(len(lines) * kept)]) + b"\n"
    with pytest.raises(UserError, match="made by no merge: the file was cut"):
        type(trained).from_files({"encoder.json": files["encoder.json"], "vocab.bpe": cut})
