"""From a conversation to the prompt that a model continues, and the marks where its answer ends."""

from __future__ import annotations

from collections.abc import Callable

from tfgpt import chat

Messages = list[dict[str, str]]
Template = Callable[[Messages], tuple[str, list[str]]]
NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}


def plain(messages: Messages) -> tuple[str, list[str]]:
    """For models that were never taught a form of conversation: names, colons and line breaks.

    >>> plain([{"role": "user", "content": "Hello"}])
    ('User: Hello\\nAssistant:', ['\\nUser:', '\\nSystem:'])
    """
    lines = [f"{NAMES[message['role']]}: {message['content'].strip()}" for message in messages]
    return "\n".join([*lines, "Assistant:"]), ["\nUser:", "\nSystem:"]


def f11(messages: Messages) -> tuple[str, list[str]]:
    """For models trained on chats (docs/chat.md): the user is me, the model everybody else; what a system says is no message.

    >>> f11([{"role": "user", "content": "Hello"}])
    ('1|user|Hello <EOM>\\n0|user|', ['<EOM>'])
    """
    said = [message for message in messages if message["role"] in ("user", "assistant")]
    history = [chat.Message(message["role"] == "user", "user", message["content"]) for message in said]
    return chat.prompt(history or [chat.Message(True, "user", "")]), [chat.EOM]


TEMPLATES: dict[str, Template] = {"plain": plain, "f11": f11}
