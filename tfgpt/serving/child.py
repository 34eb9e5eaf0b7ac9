"""The process of one model: it loads the weights, and writes all texts that it is given, token by token.

A process of its own gives all of its memory back when it ends, which nothing inside TensorFlow does, and what breaks in it
breaks nothing else. One that is started early waits with TensorFlow imported, so that a model is there sooner.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from tfgpt.errors import Failure, UserError
from tfgpt.serving.faults import Broken, words


def main(connection: Connection) -> None:
    """Serve what comes over `connection` until it is closed.

    In:  ("load", keys of Generator.load), ("add", number, prompt, options, sample), ("cancel", number), ("stop",)
    Out: ("ready", what the model is), ("failed", error), ("refused", number, error),
         ("pieces", [(number, text, token, logprob, finish)]), ("ended", number, facts), ("broken", what went wrong)
    """
    # Ctrl-C reaches the whole group, and so does systemd's SIGTERM; when the models end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tfgpt.quick import skip_pictures

    skip_pictures()
    import tfgpt.generator  # noqa: F401  (what takes a while, before it is known for which model)
    from tfgpt.generation.engines import engine_class

    engine_class()
    try:
        kind, *rest = connection.recv()
        if kind == "load":
            _serve(connection, *rest)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server has gone


def _serve(connection: Connection, folder: str, how: dict[str, Any]) -> None:
    from tfgpt.generation.decoding import Decoding
    from tfgpt.generation.options import Options

    try:
        notes: list[str] = []
        generator, fingerprint = _loaded(folder, how | {"note": notes.append})
        decoding = Decoding(generator.engine, generator.language, note=notes.append)
        # The first step of a shape compiles: before the first user comes, not while they wait.
        warm = decoding.add("", Options(length=2, seed=0))
        while decoding.busy:
            decoding.step()
        decoding.result(warm)
    except Exception as error:
        known = (
            error if isinstance(error, UserError) else Failure(f"the model could not be loaded: {error}", where=folder)
        )
        connection.send(("failed", known))
        return
    engine = generator.engine
    about = {"about": generator.about, "n_ctx": engine.n_ctx, "dtype": engine.dtype, "notes": notes}
    connection.send(("ready", about | {"fingerprint": fingerprint, "growth": engine.growth}))
    numbers: dict[int, int] = {}  # of the server, by our own
    while True:
        while connection.poll(0 if decoding.busy else None):
            kind, *rest = connection.recv()
            if kind == "stop":
                return
            if kind == "add":
                number, prompt, options, sample = rest
                try:
                    numbers[decoding.add(prompt, Options.of(options), sample=sample)] = number
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:  # a tokenizer written in Rust may panic, which is no Exception
                    known = error if isinstance(error, UserError) else Broken(f"this text failed: {words(error)}")
                    connection.send(("refused", number, known))
            elif kind == "cancel":
                for own in [own for own, number in numbers.items() if number == rest[0]]:
                    decoding.cancel(own)
                    _end(connection, decoding, numbers, own)
        try:
            pieces = decoding.step()
        except Exception as error:
            # What is of one text has been kept to it; this was the step of all, and what memory holds now nobody knows.
            connection.send(("broken", words(error)))
            return
        good = [p for p in pieces if p.finish != "error"]
        sent = [(numbers[p.request], p.text, p.token, p.logprob, p.finish) for p in good]
        connection.send(("pieces", sent))
        for piece in pieces:
            if piece.finish is not None:
                _end(connection, decoding, numbers, piece.request)


def _loaded(folder: str, how: dict[str, Any]) -> tuple[Any, str]:
    """The model, and the fingerprint of those very weights: a newer checkpoint may come at any moment."""
    from tfgpt.generator import Generator
    from tfgpt.machine import one_heap
    from tfgpt.serving import fingerprints

    one_heap(for_all=False)
    for _ in range(3):
        before = fingerprints.newest(folder)
        generator = Generator.load(folder, **how)
        if generator.sha256:
            return generator, fingerprints.of(generator.sha256)
        if fingerprints.newest(folder) == before:
            return generator, before
    raise Failure("these files change while they are read", where=folder, fix="load the model when they are complete")


def _end(connection: Connection, decoding: Any, numbers: dict[int, int], own: int) -> None:
    result = decoding.result(own)
    number = numbers.pop(own)
    if result is not None:
        facts = {"prompt_tokens": result.prompt_tokens, "tokens": len(result.tokens), "error": result.error}
        connection.send(("ended", number, facts))
