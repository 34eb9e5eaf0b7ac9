"""New tokenizers from the user's own text."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator

from tfgpt.errors import UserError
from tfgpt.tokenizers.base import END_OF_TEXT, Tokenizer, well_formed
from tfgpt.tokenizers.bpe import BpeTokenizer
from tfgpt.tokenizers.char import CharTokenizer
from tfgpt.tokenizers.vocabulary import SYMBOL_OF_BYTE, Vocabulary

SMALLEST = 257
LONGEST_PIECE = 256
# Characters that go to the trainer in one string; it holds some hundreds of strings at a time.
PIECE = 1 << 16

# GPT-2's rule, with an end to every run: the trainer's time grows with the square of a piece's length, and one megabyte
# of dashes would take it hours. A run longer than this has no more to teach than its beginning.
_SPLIT = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}{1,N}| ?\p{N}{1,N}| ?[^\s\p{L}\p{N}]{1,N}|\s{1,N}(?!\S)|\s{1,N}").replace(
    "1,N", f"1,{LONGEST_PIECE}"
)


def train_bpe(texts: Iterable[str], n_vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `n_vocab` ids in GPT-2's layout: 256 bytes, merges by rank, `<|endoftext|>` last.

    The same text always gives the same tokenizer. Where the text holds too few repeated pairs for `n_vocab` ids there are
    fewer, and a warning says so.

    >>> tokenizer = train_bpe(["low lower lowest"] * 9, 260)
    >>> [tokenizer.decode([i]) for i in tokenizer.encode("lower")]
    ['low', 'e', 'r']
    """
    if n_vocab < SMALLEST:
        raise UserError(
            f"a vocabulary of {n_vocab} is too small: 256 bytes and the end of text come first",
            nearest=str(SMALLEST),
            fix=f"ask for {SMALLEST} or more; 4096 suits a small corpus, 32768 or 50257 a large one",
        )
    # Only training needs this library, and it takes a moment to load.
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Machine

    machine = Machine(models.BPE())
    machine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - 1, min_frequency=2, show_progress=False, initial_alphabet=list(SYMBOL_OF_BYTE.values())
    )
    machine.train_from_iterator(_some(texts), trainer)
    tokenizer = BpeTokenizer(_gpt2_layout(machine.to_str()))
    if tokenizer.n_vocab < n_vocab:
        warnings.warn(
            f"the text gives only {tokenizer.n_vocab} ids, not {n_vocab}: no other pair occurs twice; more text gives more",
            stacklevel=2,
        )
    return tokenizer


def train_char(texts: Iterable[str], bytes: bool = False) -> Tokenizer:
    """A tokenizer with one id for each character that occurs in `texts`, in code point order.

    With `bytes`, characters that did not occur can still be encoded, as the ids of their UTF-8 bytes.

    >>> train_char(["banana"]).encode("nab")
    [2, 0, 1]
    """
    alphabet: set[str] = set()
    for text in _some(texts):
        alphabet |= set(text)
    return CharTokenizer("".join(sorted(alphabet)), fallback=bytes)


def _some(texts: Iterable[str]) -> Iterator[str]:
    """`texts` in strings of bounded length that UTF-8 can hold; no text at all is an error."""
    empty = True
    for text in texts:
        start = 0
        while start < len(text):
            end = start + PIECE
            if end < len(text):
                # Between words if there is a space at all, so that no word is learnt in halves.
                end = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
                end = end if end > start else start + PIECE
            empty = False
            yield well_formed(text[start:end])
            start = end
    if empty:
        raise UserError("there is no text to learn from", fix="give files or folders that hold text")


def _gpt2_layout(machine_json: str) -> Vocabulary:
    """The trainer numbers the bytes in its own order; GPT-2's files have an order that every reader expects."""
    written = json.loads(machine_json)["model"]["merges"]
    # Older versions of the trainer's library write a merge as "a b", newer ones as ["a", "b"].
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in written)
    merges = [(str(left), str(right)) for left, right in pairs]
    tokens = [*SYMBOL_OF_BYTE.values(), *(left + right for left, right in merges), END_OF_TEXT]
    assert len(set(tokens)) == len(tokens), "two merges make one token"
    return Vocabulary({token: i for i, token in enumerate(tokens)}, merges)
