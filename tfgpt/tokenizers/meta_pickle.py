"""nanoGPT's meta.pkl, read without unpickling it.

A pickle is a program, and running a stranger's program is how a data file takes over a machine. The few instructions that
build dictionaries, strings and whole numbers are carried out here by hand; any other is refused.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any

from tfgpt.errors import UserError
from tfgpt.tokenizers.char import CharTokenizer

IGNORED = {"PROTO", "FRAME"}
VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BININT", "BININT1", "BININT2", "INT", "LONG1"}


def read_meta(data: bytes, *, where: str) -> CharTokenizer:
    """The character tokenizer in the bytes of a meta.pkl: its own ids, and no end of text, for it has none."""
    content = _dictionary(data, where=where)
    itos, stoi, size = content.get("itos"), content.get("stoi"), content.get("vocab_size")
    if not isinstance(itos, dict) or not isinstance(stoi, dict):
        raise UserError(
            f'no "itos" and "stoi" dictionaries, only {sorted(map(str, content))[:5]}',
            where=where,
            fix="give the folder whose meta.pkl came from nanoGPT's prepare.py of a character data set",
        )
    alphabet = [itos.get(i) for i in range(len(itos))]
    if any(not isinstance(c, str) or len(c) != 1 for c in alphabet) or size not in (None, len(itos)):
        raise UserError(
            f'"itos" must map 0 to {len(itos) - 1} to one character each and "vocab_size" be their number', where=where
        )
    characters = "".join(str(c) for c in alphabet)
    if stoi != {c: i for i, c in enumerate(characters)}:
        raise UserError('"stoi" is not the inverse of "itos"', where=where)
    try:
        return CharTokenizer(characters, with_eot=False)
    except UserError as error:
        raise UserError(error.what, where=where) from None


def _dictionary(data: bytes, *, where: str) -> dict[Any, Any]:
    try:
        result = _carry_out(data)
    except UserError as error:
        raise UserError(error.what, where=where, fix="do not open this file with pickle either") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"not a readable pickle ({error})", where=where) from None
    if not isinstance(result, dict):
        raise UserError(f"holds a {type(result).__name__}, not a dictionary", where=where)
    return result


def _carry_out(data: bytes) -> Any:
    """A stack machine for the dozen instructions that a dictionary of strings and numbers needs."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        if name in VALUES and isinstance(argument, str | int):
            stack.append(argument)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "DICT":
            start = marks.pop()
            items = stack[start:]
            stack[start:] = [dict(zip(items[::2], items[1::2], strict=True))]
        elif name in ("SETITEMS", "SETITEM"):
            start = marks.pop() if name == "SETITEMS" else len(stack) - 2
            items = stack[start:]
            del stack[start:]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT") and argument is not None:
            memo[int(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET") and argument is not None:
            stack.append(memo[int(argument)])
        elif name == "STOP":
            return stack.pop()
        elif name not in IGNORED:
            raise UserError(f"refused: byte {position} of the pickle asks for {name}, which no plain dictionary needs")
    raise ValueError("it ends too early")
