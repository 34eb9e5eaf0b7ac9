"""What `tfgpt bench serve` serves and asks for: a model with random weights in a folder that all contestants read, and requests."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path

import numpy as np

from tfgpt.benchmarks.generation_work import SIZES
from tfgpt.benchmarks.training_work import SHAPES
from tfgpt.data import english
from tfgpt.tokenizers import Tokenizer
from tfgpt.tokenizers.base import END_OF_TEXT
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary
from tfgpt.weights import huggingface
from tfgpt.weights.source import Source, Tensor, expected

SHORTEST_PROMPT, USUAL_PROMPT, LONGEST_PROMPT = 8, 32, 256
SPREAD = 0.7  # of the logarithm: two prompts of three are within a factor of two
FEWEST_NEW, MOST_NEW = 16, 128
TEXTS = 60  # that prompts are cut from
LETTERS = " etaoinshrdlucmfwygpbvkxqjz"  # by how often English has them


@dataclass(frozen=True)
class Request:
    """One text that is asked for."""

    prompt: str
    prompt_tokens: int
    new_tokens: int


def sizes(shape: str) -> dict[str, int]:
    """Of a model: "124M" is GPT-2's; S and M have the blocks that `bench train` knows, with GPT-2's vocabulary and context."""
    if shape == "124M":
        return SIZES
    return SIZES | {name: SHAPES[shape][name] for name in ("n_layer", "n_head", "n_embd")}


def vocabulary(size: int) -> Tokenizer:
    """A made-up vocabulary, so that nothing is fetched: the bytes, pairs of letters, pairs of these, the end of text.

    It has as many ids as GPT-2's, because choosing among them is part of the work.
    """
    spelt = [SYMBOL_OF_BYTE[ord(letter)] for letter in LETTERS]
    symbols = list(SYMBOL_OF_BYTE.values())
    merges = list(islice(_merges(spelt), size - len(symbols) - 1))
    tokens = [*symbols, *(left + right for left, right in merges), END_OF_TEXT]
    assert len(set(tokens)) == size
    return BpeTokenizer(Vocabulary({token: number for number, token in enumerate(tokens)}, merges))


def _merges(letters: list[str]) -> Iterator[tuple[str, str]]:
    pairs = list(product(letters, letters[1:]))  # a space only begins a token, as in GPT-2's
    yield from pairs
    words = [left + right for left, right in pairs]
    yield from product(words, [word for word in words if not word.startswith(letters[0])])


def write_model(folder: Path, shape: str) -> Tokenizer:
    """A GPT-2 with random weights as transformers stores it, which is what all contestants load."""
    keys = sizes(shape)
    tokenizer = vocabulary(keys["n_vocab"])
    tensors = {name: Tensor(form, partial(_random, name, form)) for name, form in expected(keys).items()}
    folder.mkdir(parents=True)
    huggingface.write(Source("random", str(folder), keys, tensors, tokenizer), folder)
    return tokenizer


def _random(name: str, form: tuple[int, ...]) -> np.ndarray:
    value = np.random.default_rng(list(name.encode())).standard_normal(form, dtype=np.float32) * np.float32(0.02)
    return value + np.float32("ln_" in name and name.endswith("weight"))


def requests(
    tokenizer: Tokenizer, count: int, *, prompt_tokens: int | None, new_tokens: int | None, seed: int = 0
) -> list[Request]:
    """Pieces of English, all of the lengths given or of mixed ones; the same seed gives the same requests."""
    draw = random.Random(seed)
    texts = (text for _, text in islice(english.documents(), TEXTS))
    ids = tokenizer.encode(" ".join(" ".join(texts).split()))
    found = []
    while len(found) < count:
        length = prompt_tokens or _prompt_length(draw)
        new = new_tokens or draw.randint(FEWEST_NEW, MOST_NEW)
        while True:
            start = draw.randrange(len(ids) - length)
            prompt = tokenizer.decode(ids[start : start + length])
            # A cut through a character or before a space may be read as other tokens; then another place is taken.
            if prompt.isascii() and len(tokenizer.encode(prompt)) == length:
                break
        found.append(Request(prompt, length, new))
    return found


def _prompt_length(draw: random.Random) -> int:
    length = round(draw.lognormvariate(math.log(USUAL_PROMPT), SPREAD))
    return min(max(length, SHORTEST_PROMPT), LONGEST_PROMPT)
