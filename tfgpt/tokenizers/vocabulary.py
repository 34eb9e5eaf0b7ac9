"""GPT-2's two vocabulary files, encoder.json (token to id) and vocab.bpe (merges by rank): read, checked, written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tfgpt.errors import UserError, nearest

GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
VERSION = "#version: 0.2"
SPECIALS = 100  # tokens that no merge makes (end of text, padding and the like) are never more than this, or a tenth


def _byte_symbols() -> dict[int, str]:
    """How the files write each byte: printable Latin-1 as itself, the other 68 as U+0100 onwards; GPT-2's id order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


SYMBOL_OF_BYTE = _byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in SYMBOL_OF_BYTE.items()}


@dataclass(frozen=True)
class Vocabulary:
    """A checked pair of files: every byte has an id, ids are 0 to n-1, every merge makes a known token of known tokens."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    trusted: bool = field(default=False, compare=False)

    def pieces(self) -> list[bytes]:
        """For each id, its bytes."""
        return [token_bytes(token) for token, _ in sorted(self.ids.items(), key=lambda item: item[1])]

    def encoder_json(self) -> bytes:
        """Content of encoder.json, in the very layout of OpenAI's file."""
        return json.dumps(dict(sorted(self.ids.items(), key=lambda item: item[1]))).encode("ascii")

    def vocab_bpe(self) -> bytes:
        """Content of vocab.bpe, likewise."""
        return "\n".join([VERSION, *(f"{left} {right}" for left, right in self.merges), ""]).encode("utf-8")

    def ranks(self) -> dict[str, int]:
        """Rank of each token that merging can reach, for an engine that asks for the rank of a token, not of a pair.

        GPT-2's rule ranks pairs: "a"+"bc" may be no merge although "ab"+"c" is one and makes the same token. tiktoken ranks
        tokens and would join either. The two agree once each token keeps the rank of the one pair that in truth makes it.
        There is only one such pair: as long as no merge crosses the borders of a stretch of text, what happens inside the
        stretch does not depend on what lies around it. So whenever two neighbours spell a token T, the merges so far are
        those of T standing alone, and either its last two parts are these neighbours or T never comes to be, anywhere.
        Tokens that do not come to be are left out; in a vocabulary that was trained there are none.
        """
        rank_of_pair = {pair: rank for rank, pair in enumerate(self.merges)}
        if self.trusted:
            return {left + right: rank for (left, right), rank in rank_of_pair.items()}
        ranks: dict[str, int] = {}
        for token in {left + right for left, right in self.merges}:
            last = _last_merge(token, rank_of_pair)
            if last is not None:
                ranks[token] = last
        return ranks


def read_vocabulary(encoder: bytes, merges: bytes, *, encoder_where: str, merges_where: str) -> Vocabulary:
    """Read and check the contents of the two files; whatever is wrong is a UserError with the file and the line."""
    ids = _read_ids(encoder, where=encoder_where)
    trusted = hashlib.sha256(merges).hexdigest() == GPT2_SHA256["vocab.bpe"]
    if trusted and hashlib.sha256(encoder).hexdigest() == GPT2_SHA256["encoder.json"]:
        # Every worker process reads GPT-2's files; 50,000 lines known to be sound need no second look.
        lines = merges.decode("utf-8").splitlines()[1:]
        return Vocabulary(ids, [(left, right) for left, right in map(str.split, lines)], trusted)
    vocabulary = Vocabulary(ids, list(_read_merges(merges, ids, where=merges_where, other=encoder_where)), trusted)
    made = {left + right for left, right in vocabulary.merges}
    lost = [token for token in ids if token not in made and len(token) > 1]
    if len(lost) > max(SPECIALS, len(ids) // 10):
        raise UserError(
            f"{len(lost)} of the {len(ids)} tokens, such as {lost[0]!r}, are made by no merge: the file was cut",
            where=merges_where,
            fix="fetch or copy both files anew (tfgpt download encoder for GPT-2's)",
        )
    return vocabulary


def token_bytes(token: str) -> bytes:
    """The bytes that a token of encoder.json stands for; a special token with other characters stands for its own text."""
    try:
        return bytes(map(BYTE_OF_SYMBOL.__getitem__, token))
    except KeyError:
        return token.encode("utf-8", errors="replace")


def _last_merge(token: str, rank_of_pair: dict[tuple[str, str], int]) -> int | None:
    """Merge the bytes of `token` by GPT-2's rule: the rank of the merge that made it whole, or None if it stays in parts."""
    parts = list(token)
    rank = None
    while len(parts) > 1:
        candidates = [(rank_of_pair[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in rank_of_pair]  # noqa: B905
        if not candidates:
            return None
        rank, i = min(candidates)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return rank


def _read_ids(data: bytes, *, where: str) -> dict[str, int]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            seen: set[str] = set()
            twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise UserError(f"the token {twice!r} stands there twice", where=where)
        return content

    text = _text(data, where=where)
    try:
        ids = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f"not JSON: {error.msg}",
            where=f"{where}, line {error.lineno}, column {error.colno}",
            fix="tfgpt download encoder fetches GPT-2's files anew",
        ) from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a vocabulary: {error}", where=where) from None
    if not isinstance(ids, dict):
        raise UserError(f"must be one JSON object of token to id, not a {type(ids).__name__}", where=where)
    token_of: dict[int, str] = {}
    for token, number in ids.items():
        if type(number) is not int:
            raise UserError(f"the id of {token!r} must be a whole number, not {number!r:.40}", where=where)
        if number in token_of:
            raise UserError(f"id {number} belongs to two tokens, {token_of[number]!r} and {token!r}", where=where)
        token_of[number] = token
    hole = next((i for i in range(len(ids)) if i not in token_of), None)
    if hole is not None:
        stray = max(token_of, key=lambda i: (i < 0, i))
        raise UserError(
            f"no token has id {hole}, while {token_of[stray]!r} has id {stray}: "
            f"{len(ids)} tokens need the ids 0 to {len(ids) - 1}",
            where=where,
        )
    missing = [byte for byte, symbol in SYMBOL_OF_BYTE.items() if symbol not in ids]
    if missing:
        raise UserError(
            f"{len(missing)} of the 256 bytes have no token, the first of them 0x{missing[0]:02X}, "
            f"written {SYMBOL_OF_BYTE[missing[0]]!r}: not every text could be encoded",
            where=where,
            fix="use a byte-level vocabulary; tfgpt tokenizer train --output DIR TEXT... makes one",
        )
    return ids


def _read_merges(data: bytes, ids: dict[str, int], *, where: str, other: str) -> Iterable[tuple[str, str]]:
    lines = _text(data, where=where).split("\n")
    while lines and not lines[-1].strip("\r"):
        lines.pop()
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r")
        if number == 1 and line.startswith("#version"):
            continue
        place = f"{where}, line {number}"
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise UserError(f'a merge is two tokens with one space between them, not "{line:.60}"', where=place)
        for token in (*parts, "".join(parts)):
            if token not in ids:
                raise UserError(
                    f"the merge {line!r} needs the token {token!r}, which {other} does not have",
                    where=place,
                    nearest=nearest(token, [t for t in ids if abs(len(t) - len(token)) < 2 and t[:1] == token[:1]]),
                    fix="use the encoder.json and vocab.bpe that were made together",
                )
        if not BYTE_OF_SYMBOL.keys() >= set(parts[0] + parts[1]):
            raise UserError(f"the merge {line!r} holds a character that stands for no byte", where=place)
        yield parts[0], parts[1]


def _text(data: bytes, *, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text: byte {error.start} is 0x{data[error.start]:02X}", where=where) from None
