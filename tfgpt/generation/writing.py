"""One text on its way: from the logits of each token to the piece of text that can be shown, until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tfgpt.errors import Failure
from tfgpt.generation import sampling, window
from tfgpt.generation.draws import uniform
from tfgpt.generation.language import Language, WholeCharacters
from tfgpt.generation.options import Options
from tfgpt.generation.stops import StopText

Finish = Literal["length", "stop", "eot", "cancelled", "error"]


@dataclass(frozen=True)
class Piece:
    """What one new token brings: its text so far as it is whole characters and no stop string may begin in it."""

    request: int
    text: str
    token: int | None
    logprob: float | None
    finish: Finish | None


@dataclass
class Result:
    """A finished text.

    text           what was written, without the prompt, cut before a stop string
    tokens         every id that was drawn, the end-of-text or those of the stop string included
    logprobs       the model's own log-probability (nats, before any rule) of each of them, where asked for
    finish         "length", "stop" (a stop string), "eot" (end-of-text), "cancelled" or "error"
    seed, sample   these and the prompt make the same text again
    prompt_tokens  how many ids the prompt has
    stop           the stop string that was found
    error          what was wrong with the model's numbers
    """

    prompt: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    finish: Finish = "cancelled"
    seed: int = 0
    sample: int = 0
    prompt_tokens: int = 0
    stop: str | None = None
    error: Failure | None = None


class Writing:
    """One text: knows what the model has to read next, and takes the logits that come of it.

    `options.seed` is a number here, and `sample` says which of the texts of this seed it is.
    """

    def __init__(
        self,
        language: Language,
        prompt: str | Sequence[int],
        options: Options,
        *,
        n_ctx: int,
        sample: int = 0,
        request: int = 0,
    ) -> None:
        assert options.seed is not None
        language.check(options)
        reads, ids = language.prompt(prompt)
        self.request, self.options = request, options
        self._language, self._n_ctx, self._seed = language, n_ctx, options.seed
        self._left = window.default_length(len(reads), n_ctx) if options.length is None else options.length
        self._ids = list(reads)
        self._reads: Sequence[int] = window.first(reads, length=self._left, n_ctx=n_ctx)
        self.cut = len(reads) - len(self._reads)  # ids of the prompt that the model does not see
        self._held = 0  # positions that the model holds of this text
        # An end-of-text that stands for an empty prompt is not the user's, and ending is not a repetition.
        self._seen = set(ids) if options.repetition_penalty != 1 else None
        self._characters = WholeCharacters(language)
        self._stops = StopText(options.stop)
        self.result = Result(
            prompt if isinstance(prompt, str) else language.decode(ids),
            logprobs=[] if options.logprobs else None,
            seed=options.seed,
            sample=sample,
            prompt_tokens=len(ids),
        )
        self.finished = False

    @property
    def anew(self) -> Sequence[int] | None:
        """The ids that a fresh slot has to read; None if the slot only needs the last token."""
        if not self._held:
            return self._reads
        return window.again(self._ids, n_ctx=self._n_ctx) if self._held >= self._n_ctx else None

    @property
    def last(self) -> int:
        """The token drawn last."""
        return self._ids[-1]

    def take(self, logits: np.ndarray) -> Piece:
        """Draw the next token from the logits [V] of what was just read."""
        anew = self.anew
        self._held = self._held + 1 if anew is None else len(anew)
        result, options = self.result, self.options
        logits = logits[: self._language.size]
        number = uniform(self._seed, result.sample, len(result.tokens))
        try:
            token = sampling.draw(logits, options, seen=list(self._seen or ()), uniform=number)
        except Failure as error:
            result.error = error
            return self._end("error", "", None, None)
        logprob = sampling.log_probability(logits, token) if options.logprobs else None
        if result.logprobs is not None and logprob is not None:
            result.logprobs.append(logprob)
        result.tokens.append(token)
        self._ids.append(token)
        if self._seen is not None:
            self._seen.add(token)
        self._left -= 1
        if token == self._language.eot and not options.ignore_eot:
            return self._end("eot", "", token, logprob)
        text = self._stops.push(self._characters.push(token))
        if self._stops.found is not None:
            return self._end("stop", text, token, logprob)
        if not self._left:
            return self._end("length", text, token, logprob)
        result.text += text
        return Piece(self.request, text, token, logprob, None)

    def fail(self, error: Exception) -> Piece:
        """End here, with what went wrong in this text."""
        said = " ".join(str(error).split())
        self.result.error = Failure(f"this text could not be written: {type(error).__name__}: {said:.200}")
        self.result.error.__cause__ = error
        self.result.finish, self.finished = "error", True
        return Piece(self.request, "", None, None, "error")

    def cancel(self) -> None:
        """End here; what was held back is part of the result."""
        if not self.finished:
            self._end("cancelled", "", None, None)

    def _end(self, finish: Finish, text: str, token: int | None, logprob: float | None) -> Piece:
        if finish != "stop":
            text += self._stops.push(self._characters.finish())
            if self._stops.found is not None:
                finish = "stop"  # only now did the last bytes become U+FFFD, and that is what it waited for
            text += self._stops.finish()
        self.result.text += text
        self.result.finish, self.result.stop, self.finished = finish, self._stops.found, True
        return Piece(self.request, text, token, logprob, finish)
