"""The loop of `tfgpt chat`: lines and commands in, replies out while they are written."""

from __future__ import annotations

import secrets
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

from tfgpt import chat
from tfgpt.cli import complain, turns
from tfgpt.cli.dialogue import ANSWER, follow, typed
from tfgpt.errors import UserError
from tfgpt.generation.options import Options, read
from tfgpt.tokenizers.base import well_formed

if TYPE_CHECKING:
    from tfgpt.config import Config
    from tfgpt.generator import Generator

HELP = """your line, and the model answers. Ctrl-C: stop its answer; Ctrl-D: end
/again: another answer; /undo: take back the last turn; /new: begin anew; /seed N: from here on by this seed; /help"""


def form_for(
    generator: Generator, template: str | None, audience: str | None, typed_as: str | None
) -> tuple[turns.Form, str]:
    """The form of the conversation, by the flags where they say it, and the name of the model's side."""
    config = generator.config
    if template is None:
        known = config is not None and _of_chats(config)
        template = "f11" if known or turns.knows_f11(lambda text: _scored(generator, text)) else "plain"
        if template == "plain":
            print(
                "note: this model was not trained on chats as far as can be seen, so it is talked to as User and Assistant; "
                "--template f11 makes lines of the chat format all the same",
                file=sys.stderr,
            )
    check(template, audience, typed_as)
    if template == "plain":
        return turns.plain(), "Assistant"
    name = "user" if audience is None else audience
    if typed_as is None:
        # A model that learnt from my lines alone can only be me.
        typed_as = "audience" if config is not None and config.loss_on == "sent" else "me"
    as_me = typed_as == "me"
    return turns.f11(name, as_me=as_me), name if as_me else "me"


def _of_chats(config: Config) -> bool:
    return config.loss_on != "all" or any(".chat" in PurePath(path).suffixes for path in config.text)


def check(template: str | None, audience: str | None, typed_as: str | None) -> None:
    """UserError for flags that do not go together."""
    for flag, value in (("--audience", audience), ("--as", typed_as)):
        if template == "plain" and value is not None:
            raise UserError(
                f"{flag} has no meaning with the plain form of User and Assistant", fix=f"--template f11, or no {flag}"
            )


def _scored(generator: Generator, text: str) -> tuple[list[str], list[float]]:
    try:
        found = generator.score(text)
    except UserError:
        return ["<", "EOM>"], [0.0, -1e9]  # its alphabet does not even have these characters
    return found.pieces, found.logprobs


class Chat:
    """A person and a model, in turns."""

    def __init__(self, generator: Generator, form: turns.Form, options: Options, *, name: str) -> None:
        self.generator, self.form, self.name = generator, form, name
        n_ctx = generator.engine.n_ctx
        length = options.length or min(ANSWER, max(1, n_ctx // 2))
        seed = secrets.randbelow(2**31) if options.seed is None else options.seed
        self.options = options.changed({"length": length, "stop": [*form.stops, *options.stop], "seed": seed})
        self.answers = 0  # since the seed was given: each has randomness of its own
        # The last new token is drawn but not read. An answer may go on beyond the context, which then keeps its last half.
        room = max(n_ctx - length + 1, n_ctx // 2, 1)
        self.turns = turns.Turns(form, lambda text: len(generator.language.prompt(text)[0]), room)
        self._told = False
        self._on_terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Until Ctrl-D."""
        for line in typed(HELP):
            text = line.strip()
            if text.startswith("/") and not text.startswith("//"):
                self._command(text)
            elif text:
                self._say(text.removeprefix("/"))
            elif not self._on_terminal:
                print(flush=True)  # whoever reads the answers counts lines

    def _command(self, text: str) -> None:
        name, *words = text.split()
        if name == "/new" and not words:
            self.turns.clear()
        elif name == "/undo" and not words:
            self._note("taken back" if self.turns.undo() is not None else "nothing was said yet")
        elif name == "/again" and not words:
            line = self.turns.undo()
            if line is None:
                self._note("nothing was said yet")
            else:
                self._say(line)
        elif name == "/seed" and len(words) <= 1:
            self._seed(*words)
        else:
            if name != "/help":
                self._note(f"there is no command {text!r}; a line that begins with // is said, with one / of it")
            print(HELP, file=sys.stderr, flush=True)

    def _seed(self, text: str | None = None) -> None:
        if text is not None:
            try:
                self.options = self.options.changed({"seed": read("seed", text)})
            except ValueError as error:
                self._note(f"the seed {error}")
                return
            self.answers = 0
        self._note(f"the seed is {self.options.seed}; {self.answers} answers were drawn by it")

    def _say(self, line: str) -> None:
        self.turns.say(well_formed(line))
        try:
            (stream,) = self.generator.open([(self._prompt(), self.options)], sample=self.answers)
        except UserError as error:
            # A character that the model does not know, for example: that ends no conversation.
            self.turns.undo()
            complain(error)
            if not self._on_terminal:
                print(flush=True)
            return
        self.answers += 1
        reply = turns.Reply(self.form)

        def show(text: str) -> None:
            print(text if self._on_terminal else chat.BREAKS.sub(" ", text), end="", flush=True)

        def take(piece: str) -> bool:
            show(reply.push(piece))
            return reply.over

        if self._on_terminal:
            print(f"{self.name}: ", end="", flush=True)
        try:
            follow(stream, take)
            assert stream.result is not None
            show(reply.finish(stream.result.stop))
        finally:
            print(flush=True)
        self.turns.answered(reply.text)

    def _prompt(self) -> str:
        prompt = self.turns.prompt()
        if self.turns.left_out and not self._told:
            self._told = True
            self._note("the conversation no longer fits the model's context; its oldest turns are left out from now on")
        return prompt

    def _note(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)
