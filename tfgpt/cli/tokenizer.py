"""Train a tokenizer on your own text, or look at one.

train  reads text (folders, globs, .txt, .jsonl, .csv, .gz, ...) and writes the tokenizer's files into a folder.
show   says how many ids a tokenizer has and which are its longest pieces; with --text, how it cuts that text.

example:
  tfgpt tokenizer train my_text_folder --size 4096 --output my_tokenizer
  tfgpt tokenizer show my_tokenizer --text "Hello world"
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tfgpt.errors import UserError

if TYPE_CHECKING:
    from tfgpt.tokenizers import Tokenizer

KINDS = ("bpe", "char", "char+bytes")
LONGEST_SHOWN = 10
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|show")
    train = actions.add_parser("train", help="make a tokenizer from text", description="Make a tokenizer from text.")
    train.add_argument("paths", nargs="+", metavar="PATH", help="folder, file or glob of text")
    train.add_argument("--output", required=True, metavar="DIR", help="folder for the tokenizer's files")
    train.add_argument("--kind", choices=KINDS, default="bpe", help="default: bpe, byte pairs as GPT-2 has them")
    train.add_argument("--size", type=int, metavar="N", help="number of ids of a bpe tokenizer (default: 4096)")
    train.add_argument("--limit", type=_size, metavar="SIZE", help="stop reading after this much text, such as 1GB")
    show = actions.add_parser("show", help="look at a tokenizer", description="Look at a tokenizer.")
    show.add_argument("tokenizer", help="folder or file of a tokenizer, or a name: gpt2, byte")
    show.add_argument("--text", help="show the pieces and ids of this text")


def run(args: argparse.Namespace) -> int:
    """Carry out `tfgpt tokenizer train` or `tfgpt tokenizer show`."""
    return _train(args) if args.action == "train" else _show(args)


def _train(args: argparse.Namespace) -> int:
    from tfgpt import files, tokenizers
    from tfgpt.cli import own_name
    from tfgpt.data.texts import texts as read_texts
    from tfgpt.progress import Progress

    if args.kind != "bpe" and args.size is not None:
        raise UserError(
            f"--size is for byte pairs; a {args.kind} tokenizer has as many ids as the text has characters",
            fix="leave --size out, or use --kind bpe",
        )
    if files.is_folder(args.output) and next(files.walk(args.output), None) is not None:
        # Data encoded with the old files could never be read again with the new ones under the same name.
        raise UserError(
            "the output folder is not empty", where=args.output, fix="choose another --output, or delete that folder"
        )
    started = time.monotonic()
    sample: list[str] = []
    with Progress("read", total=args.limit) as bar, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        texts = _counted(read_texts(args.paths), limit=args.limit, bar=bar, sample=sample)
        if args.kind == "bpe":
            tokenizer = tokenizers.train_bpe(texts, 4096 if args.size is None else args.size)
        else:
            tokenizer = tokenizers.train_char(texts, bytes=args.kind == "char+bytes")
    tokenizer.save(args.output)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    print(f"{args.output}: {tokenizer.n_vocab} ids from {bar.done / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    text = "".join(sample)
    print(f"on the first {len(text)} characters of the text: {_density(tokenizer, text)}")
    print(f'next: {own_name()} tokenizer show {shlex.quote(args.output)} --text "some text"')
    return 0


def _counted(texts: Iterable[str], *, limit: int | None, bar, sample: list[str]) -> Iterator[str]:
    """`texts` up to `limit` bytes, the first of them kept in `sample`."""
    wanted = 100_000
    for text in texts:
        size = _bytes_of(text)
        whole = limit is None or bar.done + size <= limit
        if limit is not None and not whole:
            text = text.encode("utf-8", "surrogatepass")[: limit - bar.done].decode("utf-8", "ignore")
            size = _bytes_of(text)
        if text and wanted > 0:
            sample.append(text[:wanted])
            wanted -= len(text)
        if text:
            bar.update(size)
            yield text
        if not whole or bar.done == limit:
            return


def _show(args: argparse.Namespace) -> int:
    from tfgpt import tokenizers

    tokenizer = tokenizers.from_name(args.tokenizer)
    print(f"kind         {tokenizer.kind}")
    print(f"n_vocab      {tokenizer.n_vocab}")
    print(f"eot          {'none' if tokenizer.eot is None else tokenizer.eot}")
    print(f"fingerprint  {tokenizer.fingerprint}")
    if args.text is None:
        order = sorted(range(tokenizer.n_vocab), key=lambda i: (-len(tokenizer.pieces[i]), i))
        longest = [i for i in order if i != tokenizer.eot][:LONGEST_SHOWN]
        print("longest pieces")
        _table(tokenizer, longest)
        return 0
    ids = tokenizer.encode(args.text)
    _table(tokenizer, ids)
    print(_density(tokenizer, args.text))
    return 0


def _table(tokenizer: Tokenizer, ids: list[int]) -> None:
    width = len(str(tokenizer.n_vocab))
    for i in ids:
        print(f"  {i:>{width}}  {_visible(tokenizer.pieces[i])}")


def _visible(piece: bytes) -> str:
    """A piece in quotes, with escapes for what a terminal cannot show and for parts of characters.

    >>> print(_visible(" é".encode()), _visible(bytes([195])))
    ' é' b'\\xc3'
    """
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece)


def _density(tokenizer: Tokenizer, text: str) -> str:
    count, size = len(tokenizer.encode_array(text)), _bytes_of(text)
    return f"{count} ids for {size} bytes, {size / max(count, 1):.2f} bytes an id"


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)b?", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a size; write 1GB, 500MB or a number of bytes')
    return size
