"""`tfgpt serve` with models that break when a request or a file says so: a script for test_faults.py.

multiprocessing runs the main script in each of its processes too, as `__mp_main__`; so the model's process is patched there.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


class Panic(BaseException):
    """What an extension written in Rust raises."""


def sanitizer(text):
    """One that fails while there is a file "sanitizer"."""
    if (FOLDER / "sanitizer").exists():
        raise KeyError(text)
    return text


def template(plain):
    """One that fails at the word BREAK."""

    def call(messages):
        if any("BREAK" in message["content"] for message in messages):
            raise RuntimeError("the template")
        return plain(messages)

    return call


def break_models():
    """In the process of a model."""
    from tfgpt.generation import sampling
    from tfgpt.generation.engines import engine_class
    from tfgpt.generation.language import Language
    from tfgpt.generation.stops import StopText

    Engine = engine_class()
    draw, prefill, step = sampling.draw, Engine.prefill_many, Engine.step
    prompt, begin, push = Language.prompt, StopText.__init__, StopText.push
    drawn = []

    def broken_draw(logits, options, **more):
        if options.top_k == 666:
            drawn.append(1)
            if len(drawn) > 4:
                raise RuntimeError("the sampling")
        return draw(logits, options, **more)

    def broken_prefill(self, prompts):
        if any(list(ids) == [7, 7, 7] for ids in prompts.values()):
            raise MemoryError("OOM when allocating a prompt")
        return prefill(self, prompts)

    def broken_step(self, tokens):
        for file in FOLDER.glob("step*"):
            file.unlink()
            raise MemoryError("OOM when allocating a step")
        return step(self, tokens)

    def broken_prompt(self, text):
        if text == "PANIC":
            raise Panic("the tokenizer")
        return prompt(self, text)

    def broken_begin(self, stops):
        begin(self, stops)
        self.breaks = "BREAK" in stops

    def broken_push(self, text):
        if self.breaks:
            raise RuntimeError("the text")
        return push(self, text)

    sampling.draw, Engine.prefill_many, Engine.step = broken_draw, broken_prefill, broken_step
    Language.prompt, StopText.__init__, StopText.push = broken_prompt, broken_begin, broken_push


if __name__ == "__mp_main__":
    break_models()
elif __name__ == "__main__":
    from tfgpt.cli import main
    from tfgpt.serving.templates import TEMPLATES

    TEMPLATES["plain"] = template(TEMPLATES["plain"])
    sys.exit(main(sys.argv[2:]))
