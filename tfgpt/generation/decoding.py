"""Many texts over the few slots of an engine: they come and go between two tokens, and a slot that falls free is used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tfgpt.generation.language import Language
from tfgpt.generation.options import Options
from tfgpt.generation.writing import Piece, Result, Writing


class Engine(Protocol):
    """What is needed of an engine; see `tfgpt.generation.engine`."""

    n_ctx: int
    slots: int

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """Read ids into fresh slots; logits [V] after the last of each."""

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Read one more id in each of these slots; logits [V] each."""


class Decoding:
    """Writes all texts that were added, as many at a time as the engine has slots.

    A prompt is read in one go, which takes as long as many tokens of the others. So in one step no more prompts are read than
    fill one context, and at least one; the rest wait for the next step, in the order in which they came.

    What one text becomes does not depend on the others: its randomness hangs on its seed, its sample number and its own
    length alone, and the engine keeps its slots apart. Not for several threads at once.

    >>> decoding = Decoding(engine, language)                                      # doctest: +SKIP
    >>> one = decoding.add("To be", Options(seed=1, length=20))                    # doctest: +SKIP
    >>> while decoding.busy:                                                       # doctest: +SKIP
    ...     for piece in decoding.step():
    ...         print(piece.text, end="")
    """

    def __init__(self, engine: Engine, language: Language, *, note: Callable[[str], None] = lambda text: None) -> None:
        self._engine, self._language, self._note = engine, language, note
        self._waiting: deque[Writing] = deque()
        self._running: dict[int, Writing] = {}  # by slot, those that came first at the front
        self._free = list(range(engine.slots))
        self._results: dict[int, Result] = {}
        self._added = 0
        self._said: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether any text is not finished."""
        return bool(self._waiting or self._running)

    def add(self, prompt: str | Sequence[int], options: Options, *, sample: int = 0) -> int:
        """Take on a text, which begins as soon as a slot is free; returns the number by which it is known.

        `prompt` is a text, or ids. `options.seed` has to be given; `options.num_samples` is the caller's to turn into that
        many calls.
        """
        writing = Writing(self._language, prompt, options, n_ctx=self._engine.n_ctx, sample=sample, request=self._added)
        self._added += 1
        self._waiting.append(writing)
        if writing.cut:
            n_ctx = self._engine.n_ctx
            self._say(f"a prompt is longer than the context of {n_ctx} tokens; the model reads its end only")
        return writing.request

    def cancel(self, request: int) -> None:
        """Let go of a text: it gets no further token, and its result stands as it is. Any other number is let pass."""
        for slot, writing in list(self._running.items()):
            if writing.request == request:
                del self._running[slot]
                self._close(writing, slot)
        for writing in [one for one in self._waiting if one.request == request]:
            self._waiting.remove(writing)
            self._close(writing)

    def step(self) -> list[Piece]:
        """One more token for each text that has a slot, those included that get one now and whose prompt has its turn."""
        while self._waiting and self._free:
            self._running[self._free.pop(0)] = self._waiting.popleft()
        anew, going = self._turns()
        logits = self._begun(anew) if anew else {}
        if going:
            logits |= self._engine.step(going)
        pieces = []
        for slot, row in logits.items():
            writing = self._running[slot]
            pieces.append(_taken(writing, row))
            if writing.finished:
                del self._running[slot]
                self._close(writing, slot)
        return pieces

    def _begun(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray | Exception]:
        """Logits of each prompt, or what went wrong with it: one that cannot be read harms no other."""
        try:
            return dict(self._engine.prefill_many(prompts))
        except Exception as error:
            if len(prompts) == 1:
                return dict.fromkeys(prompts, error)
        return {slot: found for one, ids in prompts.items() for slot, found in self._begun({one: ids}).items()}

    def _turns(self) -> tuple[dict[int, Sequence[int]], dict[int, int]]:
        """By slot: ids that are read into it from the beginning, or the one that comes next."""
        anew: dict[int, Sequence[int]] = {}
        going: dict[int, int] = {}
        room = self._engine.n_ctx
        for slot, writing in self._running.items():
            ids = writing.anew
            if ids is None:
                going[slot] = writing.last
            elif not anew or len(ids) <= room:
                anew[slot] = ids
                room -= len(ids)
                if writing.result.tokens:
                    self._say("the context is full; the text goes on from its last half")
            else:
                room = 0  # nobody's short prompt overtakes
        return anew, going

    def result(self, request: int) -> Result | None:
        """The finished text, which is handed out once; None while it is not finished."""
        return self._results.pop(request, None)

    def _close(self, writing: Writing, slot: int | None = None) -> None:
        writing.cancel()
        self._results[writing.request] = writing.result
        if slot is not None:
            self._free.append(slot)
            self._free.sort()

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._note(text)


def _taken(writing: Writing, row: np.ndarray | Exception) -> Piece:
    """The next piece; whatever goes wrong in one text ends that text alone."""
    try:
        return writing.fail(row) if isinstance(row, Exception) else writing.take(row)
    except Exception as error:
        return writing.fail(error)
