"""Plain bytes."""

from __future__ import annotations

import pytest

from tfgpt import tokenizers
from tfgpt.errors import UserError
from tfgpt.tokenizers.byte import ByteTokenizer


def test_ids_are_the_bytes_themselves():
    tokenizer = ByteTokenizer()
    everything = "".join(map(chr, range(0x250))) + "\r\n中😀"
    assert tokenizer.encode(everything) == list(everything.encode("utf-8"))
    assert tokenizer.decode_bytes(range(256)) == bytes(range(256))
    assert (tokenizer.kind, tokenizer.n_vocab, tokenizer.eot) == ("byte", 257, 256)


def test_newlines_and_long_characters_survive():
    assert ByteTokenizer().decode([10, 0xE4, 0xB8, 0xAD, 9, 31]) == "\n中\t\x1f"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "tfgpt-byte-2"}', "[" * 100_000])
def test_a_wrong_file_is_named(tmp_path, content):
    (tmp_path / "byte.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        tokenizers.load(tmp_path)
    assert error.value.where == str(tmp_path / "byte.json")
