"""Writing in turns: you type a line, the model goes on, and all of it is what the next line follows.

How lines are typed and how a text is stopped is the same for `tfgpt chat`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tfgpt.generation.options import Options
from tfgpt.signals import StopRequest

if TYPE_CHECKING:
    from tfgpt.generation.streams import Stream
    from tfgpt.generator import Generator

HELP = "your line, and the model goes on; an empty line: go on; /new: begin anew; Ctrl-C: stop it; Ctrl-D: end"
ANSWER = 256  # tokens, where the user names no number and the context is large enough


class Dialogue:
    """One text that a person and a model write in turns."""

    def __init__(self, generator: Generator, options: Options) -> None:
        self.generator, self.text, self.turn = generator, "", 0
        n_ctx = generator.engine.n_ctx
        # "To the end of the context" would leave less and less room as the text grows.
        length = options.length or min(ANSWER, max(1, n_ctx // 2))
        self.options = options.changed({"length": length, "num_samples": 1})

    def run(self) -> None:
        """Until Ctrl-D."""
        for line in typed(HELP):
            if line.strip() == "/new":
                self.text = ""
            else:
                self.answer(line)

    def answer(self, line: str) -> None:
        """Put `line` behind the text and let the model go on."""
        if line and self.text and not self.text.endswith("\n"):
            self.text += "\n"
        self.text += line
        # Each turn has randomness of its own, and the whole conversation still follows from its seed.
        (stream,) = self.generator.open([(self.text, self.options)], sample=self.turn)
        self.turn += 1
        try:
            follow(stream, lambda piece: print(piece, end="", flush=True))
        finally:
            print(flush=True)
        assert stream.result is not None
        self.text += stream.result.text


def typed(words: str) -> Iterator[str]:
    """The lines that the user types, until Ctrl-D; on a terminal, `words` say before the first one what can be typed."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # one wrong byte ends no conversation
    if sys.stdin.isatty():
        try:
            import readline  # noqa: F401  arrow keys and earlier lines, where Python has it
        except ImportError:
            pass
        print(words, file=sys.stderr)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        yield line


def follow(stream: Stream, take: Callable[[str], object]) -> None:
    """Hand each piece of a text to `take`, until the text ends, `take` returns True, or Ctrl-C ends it."""
    try:
        # A signal is only noted while a token is computed: the state of the engine stays whole.
        with StopRequest("stopped") as stop:
            for piece in stream:
                if take(piece) is True or stop.requested:
                    break
            if stop.requested == signal.SIGTERM:
                stop.check()
    finally:
        stream.close()
