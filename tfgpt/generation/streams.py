"""Texts as they are read: one reader a text, all over the same few slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from tfgpt.generation.decoding import Decoding
from tfgpt.generation.options import Options
from tfgpt.generation.writing import Result


class Streams:
    """Opens texts on a `Decoding`. Whoever wants the next piece of one moves all of them on, and each keeps its own pieces."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._open: dict[int, Stream] = {}

    def open(self, prompt: str | Sequence[int], options: Options, *, sample: int = 0) -> Stream:
        """A text that is to be written."""
        number = self._decoding.add(prompt, options, sample=sample)
        self._open[number] = stream = Stream(self, number)
        return stream

    def advance(self) -> None:
        """One more token for each text that has a slot."""
        for piece in self._decoding.step():
            stream = self._open[piece.request]
            if piece.text:
                stream.pieces.append(piece.text)
            if piece.finish is not None:
                self._end(stream)

    def close(self, stream: Stream) -> None:
        """Let go of a text; what it is by now is its result."""
        if stream.result is None:
            self._decoding.cancel(stream.number)
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        stream.result = self._decoding.result(stream.number)
        del self._open[stream.number]


class Stream(Iterator[str]):
    """One text, piece by piece, in whole characters; `result` is there when it has ended. `close` ends it earlier."""

    def __init__(self, streams: Streams, number: int) -> None:
        self._streams, self.number = streams, number
        self.pieces: deque[str] = deque()
        self.result: Result | None = None

    def __next__(self) -> str:
        while not self.pieces and self.result is None:
            self._streams.advance()
        if self.pieces:
            return self.pieces.popleft()
        assert self.result is not None
        if self.result.error is not None:
            raise self.result.error
        raise StopIteration

    def close(self) -> None:
        """End the text here, if it has not ended."""
        self._streams.close(self)

    def finished(self) -> Result:
        """The result, once the text is written to its end."""
        for _ in self:
            pass
        assert self.result is not None
        return self.result
