"""What the tokenizer tests share: a small trained tokenizer, strings that break tokenizers, and other people's engines."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer as Machine
from tokenizers import models, pre_tokenizers

from tfgpt import tokenizers

HARD = [
    "",
    " ",
    "Hello world",
    "I'll we've you're he'd she's I'm don't 'S 'LL 'Re ''s '' 'x 's's",
    "  two  spaces   three \t tabs\t\tand\nnewlines\n\n \n  end  ",
    "no-break\u00a0space \u00a0 \u2003em\u2003\u2003space\u3000ideographic\u1680ogham\u202fnarrow\u205fmath",
    "\u0085\u0085 next line \u2028 line separator \u2029\u2029paragraph",
    "\x1c\x1d\x1e\x1f separators, \x0b\x0c vertical, \x00\x00 nul\x00",
    "combining e\u0301 a\u0308\u0323 \u0301alone  \u0301 q\u0307\u0323",
    "family 👨‍👩‍👧‍👦 flag 🇩🇪 skin 👍🏽 heart ❤️ keycap 1️⃣ 😀😀",
    "right to left: שלום עולם مرحبا بالعالم \u202eoverride\u202c \u200f\u200e",
    "digits ٠١٢٣ ०१२ ๑๒๓ Ⅷ ½ ² ₂ ① 𝟘𝟙 𒐀 〇 12345 1,234.5",
    "private \ue000\uf8ff\U000f0000\U0010fffd unassigned \u0378 \U000e0080 noncharacter \ufffe\uffff\U0010ffff",
    "\ufeffbyte order mark \ufeff",
    "zero\u200bwidth\u200cjoin\u200der soft\u00adhyphen word\u2060joiner",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|> <|endoftext|><|endoftext|>",
    "中文没有空格。日本語のテキスト。한국어 텍스트 ไทยไม่มีช่องว่าง",
    "ſ ŉ ß ﬁ İ ı ǅ ʼn K Å",
    "=" * 70 + "-" * 33 + "!?" * 21 + "\n" * 9 + " " * 17 + "x",
    "def f(x):\n    return {'a': x[0], \"b\": 'it''s'}\r\n\r\n\t# end\r",
    "\ufffd replacement \ufffd\ufffd",
]


def strings() -> st.SearchStrategy[str]:
    """Any Unicode, mixed with hard fragments, so that every branch of the split rule meets every other."""
    anything = st.text(max_size=40)
    bits = st.sampled_from(
        [" ", "  ", "\n", "'", "'s", "'ll", "\u00a0", "\t", "é", "😀", "7", "٣", "!", "the", " The", "aa"]
    )
    return st.lists(st.one_of(anything, bits, st.sampled_from(HARD)), max_size=8).map("".join)


@pytest.fixture(scope="session")
def english() -> str:
    """English text that every Python carries."""
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


@pytest.fixture(scope="session")
def trained(english):
    """A byte-pair tokenizer of 700 ids."""
    return tokenizers.train_bpe([english[:200_000]], 700)


@pytest.fixture(scope="session")
def trained_folder(trained, tmp_path_factory) -> Path:
    """The folder of that tokenizer."""
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    trained.save(folder)
    return folder


@pytest.fixture(scope="session")
def hard() -> list[str]:
    """Strings that break tokenizers."""
    return HARD


@pytest.fixture(scope="session")
def any_string():
    """The strategy for the property tests."""
    return strings()


@pytest.fixture(scope="session")
def machine_of():
    """Hugging Face's byte-level BPE made from a folder of encoder.json and vocab.bpe: an engine of other hands."""

    def build(folder: Path) -> Machine:
        ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
        machine = Machine(models.BPE(vocab=ids, merges=[tuple(line.split(" ")) for line in lines]))
        machine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return machine

    return build
