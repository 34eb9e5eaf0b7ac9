"""A raw document becomes clean text, its hash, its side of the split, and token ids. This is what a worker does."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from tfgpt.data import chats, records
from tfgpt.data.cleaning import clean
from tfgpt.data.readers import Raw
from tfgpt.tokenizers import Tokenizer

SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Rules:
    """How documents are treated; part of the ledger, so that a data folder says how it was made."""

    minimum_size: int = 25  # tokens; shorter documents are dropped
    fix_text: bool = True  # ftfy with NFKC
    split: str = "documents"  # "documents" | "tail" | "none"
    eval_fraction: float = 0.05
    key: str = "text"  # JSON key or column of the text
    encoding: str = "utf-8"
    me: str = ""  # chats: the sender's name that stands for me
    held: tuple[str, ...] = ()  # chats: audiences that are held out, where a share by hash would come to nothing

    def as_dict(self) -> dict[str, object]:
        # What only chats have is left out elsewhere: data that was made before keeps its fingerprint.
        return {key: value for key, value in asdict(self).items() if value or key not in ("me", "held")}


@dataclass(frozen=True)
class Dropped:
    """A document that is left out, and why."""

    reason: str  # short and countable: "too short", "not UTF-8", ...
    where: str
    detail: str = ""


@dataclass
class Encoded:
    """What came of one batch of raw documents, ready to be appended to shards."""

    read: int = 0  # documents, the dropped ones included
    source_bytes: int = 0
    splits: list[str] = field(default_factory=list)  # one entry a record, as the lists below
    hashes: list[bytes] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    text_bytes: list[int] = field(default_factory=list)  # UTF-8 bytes of the text, for bits per byte
    framed: list[bytes] = field(default_factory=list)
    read_at: list[int] = field(default_factory=list)  # which of the `read` documents it came from
    places: list[str] = field(default_factory=list)  # and where that document lies, for reports
    dropped: list[Dropped] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """A self-contained form for a spool file between machines."""
        head = {
            "read": self.read, "source_bytes": self.source_bytes, "splits": self.splits, "tokens": self.tokens,
            "text_bytes": self.text_bytes, "read_at": self.read_at, "places": self.places, "sizes": [len(f) for f in self.framed],
            "hashes": [h.decode("ascii") for h in self.hashes], "dropped": [asdict(d) for d in self.dropped],
        }  # fmt: skip
        encoded = json.dumps(head).encode()
        return struct.pack("<Q", len(encoded)) + encoded + b"".join(self.framed)

    @classmethod
    def from_bytes(cls, data: bytes) -> Encoded:
        (length,) = struct.unpack("<Q", data[:8])
        head = json.loads(data[8 : 8 + length])
        ends = np.cumsum([8 + length, *head.pop("sizes")]).tolist()
        return cls(
            **{k: v for k, v in head.items() if k not in ("hashes", "dropped")},
            hashes=[h.encode("ascii") for h in head["hashes"]],
            dropped=[Dropped(**d) for d in head["dropped"]],
            framed=[data[a:b] for a, b in zip(ends, ends[1:], strict=False)],
        )


@dataclass
class Piece:
    """A text, or the ids of one, on its way to a record."""

    number: int  # of the document within the batch
    where: str
    split: str  # "train", "eval", or "" where the content decides
    text: str = ""
    ids: np.ndarray | None = None
    end_of: str | None = None  # the held-out end of a document: the text before it


def encode(raws: Iterable[Raw], tokenizer: Tokenizer, rules: Rules) -> Encoded:
    """Decode, clean, split, hash and tokenize a batch of documents."""
    out = Encoded()
    pieces: list[Piece] = []
    for number, raw in enumerate(raws):
        out.read += 1
        out.source_bytes += raw.size
        pieces += _pieces(raw, number, rules, out.dropped)
    _tokenize(pieces, tokenizer, out.dropped)
    id_lists: list[np.ndarray] = []
    for piece in _whole_where_the_end_is_too_short(pieces, tokenizer, rules):
        ids = piece.ids
        if ids is None:
            continue
        if why := _refusal(piece, ids, tokenizer, rules):
            out.dropped.append(why)
            continue
        data = piece.text.encode("utf-8") if piece.text else ids.astype("<u4").tobytes()
        digest = digest_of(data)
        out.splits.append(piece.split or side(digest, rules.eval_fraction))
        out.hashes.append(digest)
        out.tokens.append(len(ids))
        out.text_bytes.append(len(data) if piece.text else len(tokenizer.decode_bytes(ids)))
        out.read_at.append(piece.number)
        out.places.append(piece.where)
        id_lists.append(ids)
    if id_lists:
        out.framed = records.encode_documents(np.concatenate(id_lists), out.tokens, out.hashes)
    return out


def text_of(raw: Raw, *, key: str, fix_text: bool, encoding: str = "utf-8") -> str | Dropped:
    """The clean text of a raw document, or why there is none."""
    if raw.problem:
        reason, _, detail = raw.problem.partition(" (")
        return Dropped(reason, raw.where, detail.rstrip(")"))
    data: object = raw.data
    if raw.kind == "chat":
        return chats.cleaned(str(data), clean if fix_text else str)
    if raw.kind == "tokens":
        return Dropped("token ids, not text", raw.where)
    if raw.kind == "json":
        try:
            parsed = json.loads(_decode(raw.data, encoding))  # type: ignore[arg-type]
        except UnicodeDecodeError as error:
            return _not_decodable(raw.where, error)
        except (ValueError, RecursionError) as error:
            return Dropped("broken JSON", raw.where, str(error)[:100])
        data = parsed.get(key) if isinstance(parsed, dict) else parsed if isinstance(parsed, str) else None
        if not isinstance(data, str):
            return Dropped(f'no text under the key "{key}"', raw.where)
    elif not isinstance(data, str):
        try:
            data = _decode(data, encoding)  # type: ignore[arg-type]
        except UnicodeDecodeError as error:
            return _not_decodable(raw.where, error)
    # A lone surrogate (from "\ud800" in JSON) is no character; it becomes what every tokenizer would make of it.
    text = (
        str(data).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if _surrogate(data) else str(data)
    )
    return clean(text) if fix_text else text


def digest_of(data: bytes) -> bytes:
    """The content hash that is stored with a record and decides its split: 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode("ascii")


def side(digest: bytes, eval_fraction: float) -> str:
    """Train or eval, by content alone: adding files never moves a document to the other side.

    >>> side(b"00" * 16, 0.05), side(b"ff" * 16, 0.05)
    ('eval', 'train')
    """
    return "eval" if int(digest[:16], 16) < eval_fraction * 2**64 else "train"


def conversation_side(audience: str, rules: Rules) -> str:
    """Train or eval, by the audience alone: a conversation is never on both sides, in however many files it lies."""
    if rules.held:
        return "eval" if audience in rules.held else "train"
    return side(digest_of(audience.encode("utf-8")), rules.eval_fraction)


def _pieces(raw: Raw, number: int, rules: Rules, dropped: list[Dropped]) -> list[Piece]:
    """What a raw document is cut into: itself, or its beginning and its held-out end."""
    decided = "train" if rules.split != "documents" else ""
    if raw.kind == "tokens" and not raw.problem:
        # Ids that come without a side of their own are split by content, as there is no text to cut.
        return [
            Piece(number, raw.where, raw.split or ("train" if rules.split == "none" else ""), ids=np.asarray(raw.data))
        ]
    text = text_of(raw, key=rules.key, fix_text=rules.fix_text, encoding=rules.encoding)
    if isinstance(text, Dropped):
        dropped.append(text)
        return []
    if raw.kind == "chat":
        decided = decided or conversation_side(chats.messages_of(text)[0].audience, rules)
    if rules.split != "tail":
        return [Piece(number, raw.where, decided, text)]
    cut = _tail_start(text, rules.eval_fraction)
    if raw.kind == "chat":
        cut = text.rfind("\n", 0, cut) + 1 or len(text)  # no message is cut, and a single one is not held out
    return [
        Piece(number, raw.where, "train", text[:cut]),
        Piece(number, raw.where, "eval", text[cut:], end_of=text[:cut]),
    ]


def _tokenize(pieces: list[Piece], tokenizer: Tokenizer, dropped: list[Dropped]) -> None:
    """Give every text its ids, in one call for all of them."""
    waiting = [piece for piece in pieces if piece.ids is None]
    try:
        ids, lengths = tokenizer.encode_batch([piece.text for piece in waiting])
    except ValueError:
        # A character-level tokenizer met a character that it does not know: find out where.
        for piece in waiting:
            try:
                piece.ids = tokenizer.encode_array(piece.text)
            except ValueError as error:
                dropped.append(Dropped("not in the tokenizer's alphabet", piece.where, str(error).splitlines()[0]))
        return
    start = 0
    for piece, length in zip(waiting, lengths, strict=True):
        piece.ids = ids[start : start + length]
        start += length


def _whole_where_the_end_is_too_short(pieces: list[Piece], tokenizer: Tokenizer, rules: Rules) -> Iterator[Piece]:
    """Under "tail", a document whose end would be no document of its own stays whole, on the train side."""
    for first, second in itertools.zip_longest(pieces, pieces[1:]):
        if first.end_of is not None and first.ids is not None and len(first.ids) < max(rules.minimum_size, 1):
            continue
        follower = second if second is not None and second.end_of is not None else None
        if follower and follower.ids is not None and len(follower.ids) < max(rules.minimum_size, 1):
            whole = first.text + follower.text
            yield Piece(first.number, first.where, "train", whole, tokenizer.encode_array(whole))
        else:
            yield first


def _refusal(piece: Piece, ids: np.ndarray, tokenizer: Tokenizer, rules: Rules) -> Dropped | None:
    if len(ids) < max(rules.minimum_size, 1):
        return Dropped("too short", piece.where, f"{len(ids)} tokens, the minimum is {rules.minimum_size}")
    if not ids.any():
        return Dropped("only the token 0", piece.where)
    if not piece.text and int(ids.max()) >= tokenizer.n_vocab:
        return Dropped("id outside the vocabulary", piece.where, f"{ids.max()} of {tokenizer.n_vocab}")
    return None


def _tail_start(text: str, fraction: float) -> int:
    """Where the held-out end of a text begins: at a line or word border near the fraction asked for."""
    cut = int(len(text) * (1 - fraction))
    lowest = max(cut - len(text) // 50, 0)
    for border in ("\n\n", "\n", " "):
        at = text.rfind(border, lowest, cut)
        if at >= 0:
            return at + len(border)
    return cut


def _decode(data: bytes, encoding: str) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name)
    return data.decode(encoding)


def _not_decodable(where: str, error: UnicodeDecodeError) -> Dropped:
    name = error.encoding.upper().replace("UTF8", "UTF-8")
    return Dropped(f"not {name}", where, f"byte {error.start} of the document: {error.reason}")


def _surrogate(text: object) -> bool:
    try:
        str(text).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
