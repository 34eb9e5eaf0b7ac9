"""Files of chat messages: each conversation, that is, all that was said with one audience, is one document."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator

from tfgpt import chat
from tfgpt.data.raw import Raw

HELD = 8 << 20  # characters of unfinished conversations: memory stays bounded, and a long file makes several documents


def read_chat(lines: Iterable[tuple[int, bytes | None]], path: str, *, encoding: str, me: str) -> Iterator[Raw]:
    """The conversations of a file in the order of their first message, and a problem for every fault, by its line."""
    found: dict[str, list[chat.Message]] = {}
    held = 0
    for item in chat.read(_decoded(lines, encoding), me=me):
        if isinstance(item, chat.Fault):
            detail = f" ({item.detail})" if item.detail else ""
            yield Raw("chat", b"", f"{path}, line {item.line}", problem=item.reason + detail)
            continue
        found.setdefault(item.audience, []).append(item)
        held += len(item.text) + len(item.audience)
        if held >= HELD:
            yield from _documents(found, path)
            found, held = {}, 0
    yield from _documents(found, path)


def messages_of(text: str) -> list[chat.Message]:
    """The messages of a document."""
    return [item for item in chat.read(text.split("\n")) if isinstance(item, chat.Message)]


def cleaned(text: str, clean: Callable[[str], str]) -> str:
    """The document with each message cleaned by itself: what cleaning makes of `＜EOM＞` or `&lt;EOM&gt;` must not end one."""
    return chat.write(chat.Message(m.sent, clean(m.audience), clean(m.text)) for m in messages_of(text))


def _documents(found: dict[str, list[chat.Message]], path: str) -> Iterator[Raw]:
    for audience, messages in found.items():
        yield Raw("chat", chat.write(messages), f"{path}, conversation with {audience}")


def _decoded(lines: Iterable[tuple[int, bytes | None]], encoding: str) -> Iterator[str | None]:
    for offset, line in lines:
        if line is not None and not offset:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield None if line is None else line.decode(encoding)
        except UnicodeDecodeError:
            yield None
