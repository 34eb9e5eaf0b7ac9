"""Answers as OpenAI's clients read them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from tfgpt.serving.answering import Session, Text, reason
from tfgpt.serving.worker import Piece


class Form:
    """The objects of one answer: completions, or (`chat`) chat completions."""

    def __init__(self, session: Session, *, chat: bool, clean=lambda text: text) -> None:
        self._session, self._chat, self._clean = session, chat, clean
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": session.model.settings.key,
            "system_fingerprint": f"fp_{session.worker.fingerprint}",
        }
        self._offsets: dict[int, int] = {}

    def whole(self, texts: Sequence[Text]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._choice(i, text) for i, text in enumerate(texts)]
        return self._head | {"choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens read and written."""
        read, written = self._session.counts()
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def first(self, number: int) -> dict[str, Any] | None:
        """What a stream begins a text with."""
        if self._chat:
            return self._event({"index": number, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        if self._session.ask.echo:
            text = self._prompt(number)
            return self._event({"index": number, "text": text, "logprobs": None, "finish_reason": None})
        return None

    def piece(self, number: int, piece: Piece) -> dict[str, Any]:
        """One event of a stream."""
        choice: dict[str, Any] = {
            "index": number,
            "logprobs": self._logprobs(number, [piece]),
            "finish_reason": reason(piece),
        }
        return self._event(choice | ({"delta": {"content": piece.text}} if self._chat else {"text": piece.text}))

    def last(self) -> dict[str, Any]:
        """The counts behind a stream."""
        return self._event(None) | {"usage": self.usage()}

    def _event(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return self._head | {"object": kind, "choices": [] if choice is None else [choice]}

    def _choice(self, number: int, text: Text) -> dict[str, Any]:
        choice = {"index": number, "logprobs": self._logprobs(number, text.pieces), "finish_reason": text.finish}
        content = self._clean(text.text)
        if self._chat:
            return choice | {"message": {"role": "assistant", "content": content, "refusal": None}}
        return choice | {"text": (self._prompt(number) if self._session.ask.echo else "") + content}

    def _prompt(self, number: int) -> str:
        prompt = self._session.ask.prompts[number // self._session.ask.n]
        return prompt if isinstance(prompt, str) else ""

    def _logprobs(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        if self._session.ask.logprobs is None:
            return None
        drawn = [piece for piece in pieces if piece.token is not None]
        if self._chat:
            rows = [
                {"token": p.text, "logprob": p.logprob, "bytes": list(p.text.encode()), "top_logprobs": []}
                for p in drawn
            ]
            return {"content": rows, "refusal": None}
        offsets = []
        for piece in drawn:
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(piece.text)
        return {
            "tokens": [piece.text for piece in drawn],
            "token_logprobs": [piece.logprob for piece in drawn],
            "top_logprobs": None,
            "text_offset": offsets,
        }
