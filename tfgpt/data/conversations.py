"""What all conversations of an input come to: which of them are held out, and all of them as one text file."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfgpt import files
from tfgpt.data import readers, sources
from tfgpt.data.chats import messages_of
from tfgpt.data.documents import Dropped, Rules, conversation_side, text_of
from tfgpt.data.raw import Raw
from tfgpt.data.show import printable
from tfgpt.data.sources import Unit
from tfgpt.errors import UserError

LEGAL = '"1|AUDIENCE|MESSAGE <EOM>", or {"sender": "me", "audience": "...", "text": "..."}'
SHOWN = 5  # places of each kind of fault
TOKEN_BYTES = 4  # of text, roughly; only to foresee which conversation is too short for a document


@dataclass
class Survey:
    """A look at all messages."""

    sizes: Counter[str] = field(default_factory=Counter)  # audience -> bytes of its conversation
    messages: int = 0
    sent: int = 0
    faults: list[Dropped] = field(default_factory=list)

    def add(self, raw: Raw, rules: Rules) -> str:
        """Take one document in; returns its text, empty for a fault."""
        text = text_of(raw, key=rules.key, fix_text=rules.fix_text, encoding=rules.encoding)
        if isinstance(text, Dropped):
            self.faults.append(text)
            return ""
        messages = messages_of(text)
        self.sizes[messages[0].audience] += len(text.encode("utf-8"))
        self.messages += len(messages)
        self.sent += sum(message.sent for message in messages)
        return text


def settle(rules: Rules, units: Sequence[Unit], *, split: str, quiet: bool = False) -> Rules:
    """The rules for an input with chats: conversations are held out whole, so that none is on both sides.

    A share of few conversations by their hash may be none at all, or most of what there is. Then it is the one conversation
    whose size comes nearest to the share.
    """
    survey = Survey()
    others = False
    for unit in units:
        others = others or any(source.format != "chat" for source in unit.sources)
        for raw in _chats(unit, rules):
            survey.add(raw, rules)
    if not others:
        check(survey, rules)
    if not survey.sent and survey.messages and not quiet:
        print("note: all messages are received, none is sent by me; --me NAME says who you are", file=sys.stderr)
    if rules.eval_fraction <= 0 or split == "none":
        return replace(rules, split="none")
    if split == "tail":
        return replace(rules, split=split)
    total = sum(survey.sizes.values())
    by_hash = sum(size for who, size in survey.sizes.items() if conversation_side(who, rules) == "eval")
    if 0 < by_hash <= total / 2:
        return replace(rules, split="documents")
    fit = [who for who, size in survey.sizes.items() if TOKEN_BYTES * rules.minimum_size <= size <= total / 2]
    nearest = sorted(fit, key=lambda who: (abs(survey.sizes[who] - rules.eval_fraction * total), who))[:1]
    return replace(rules, split="documents", held=tuple(nearest))


def check(survey: Survey, rules: Rules) -> None:
    """Raise what a person has to mend before anything is written."""
    if not survey.messages:
        first = survey.faults[0] if survey.faults else None
        raise UserError(
            f"no chat message was found; {len(survey.faults)} faults"
            + (f", the first: {first.reason}" if first else ""),
            where=first.where if first else "",
            nearest=LEGAL,
            fix="one message a line in either form",
        )
    if rules.me and not survey.sent:
        raise UserError(
            f'no message is sent by "{rules.me}"', where="--me", fix='write the name as "sender" has it in the export'
        )


def write_text(inputs: Sequence[str], path: str, rules: Rules) -> Survey:
    """All conversations in the chat format, in one file; says what was found.

    >>> write_text(["export.jsonl"], "data/chat.chat", Rules(me="Ada"))   # doctest: +SKIP
    """
    survey = Survey()
    parts = []
    found = sources.find(inputs, format="chat", encoding=rules.encoding).sources
    # The file of an earlier run may lie inside the input.
    for unit in sources.plan([source for source in found if os.path.realpath(source.path) != os.path.realpath(path)]):
        parts += [survey.add(raw, rules) for raw in _chats(unit, rules)]
    check(survey, rules)
    if not files.is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(parts))
    return survey


def summary(survey: Survey, path: str) -> list[str]:
    """What was written and what was left out, as lines."""
    out = [f"{path}: {survey.messages:,} messages ({survey.sent:,} sent by me) in {len(survey.sizes):,} conversations"]
    for reason, count in Counter(fault.reason for fault in survey.faults).items():
        places = [fault.where for fault in survey.faults if fault.reason == reason][:SHOWN]
        out.append(f"left out: {count:,} {reason} ({printable('; '.join(places))}{'; ...' if count > SHOWN else ''})")
    return out


def _chats(unit: Unit, rules: Rules) -> Iterator[Raw]:
    unit = replace(unit, sources=tuple(source for source in unit.sources if source.format == "chat"))
    yield from readers.read(unit, key=rules.key, encoding=rules.encoding, me=rules.me)
