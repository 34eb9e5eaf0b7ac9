"""`Generator.load(DIR)`: text from a checkpoint folder, in Python."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfgpt import tokenizers
from tfgpt.config import Config
from tfgpt.errors import UserError
from tfgpt.generation import scoring
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.engines import engine_class
from tfgpt.generation.language import Language
from tfgpt.generation.options import DTYPES, Options
from tfgpt.generation.scoring import Score
from tfgpt.generation.streams import Stream, Streams
from tfgpt.generation.writing import Result
from tfgpt.tokenizers import Tokenizer
from tfgpt.training import opening
from tfgpt.training.restoring import Checkpoint

if TYPE_CHECKING:
    from tfgpt.model.shape import Shape


class Generator:
    """Writes and scores text with one model, for one thread.

    The options of `generate` and `stream` are those of `tfgpt.generation.options.Options`: temperature, top_k, top_p, min_p,
    repetition_penalty, length, stop, ignore_eot, seed, num_samples, logit_bias, banned, logprobs.

    >>> import tfgpt
    >>> generator = tfgpt.Generator.load("models/my_model")                                    # doctest: +SKIP
    >>> generator.generate("To be", top_k=40, seed=1, length=8)[0].text                        # doctest: +SKIP
    ' or not to be, that is the'
    >>> for piece in generator.stream("To be", temperature=0):                                 # doctest: +SKIP
    ...     print(piece, end="")
    >>> generator.score("To be or not to be").perplexity                                       # doctest: +SKIP
    41.7
    """

    def __init__(
        self, engine: Any, language: Language, *, about: str = "", note: Callable[[str], None] | None = None
    ) -> None:
        """`engine` is one of `tfgpt.generation.engines`, or whatever behaves like one; `load` makes both arguments."""
        self.engine, self.language, self.about = engine, language, about
        self.config: Config | None = None  # that the model was trained with, where `load` found one
        self.sha256 = ""  # of the file of the weights, where a manifest states it
        self._streams = Streams(Decoding(engine, language, note=note or _note))

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        dtype: str = "auto",
        slots: int = 1,
        best: bool = False,
        tokenizer: str | None = None,
        like: Config | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Generator:
        """The model in a checkpoint folder, the newest good (or the `best`) checkpoint of a run's folder, or a released model.

        dtype      what weights are kept in: "float32", "bfloat16", "int8", or "auto", the fastest by a short measurement
        slots      texts that are written at the same time: more for many prompts, at a price for a single one
        tokenizer  name or folder of one, in place of that in the checkpoint
        like       a configuration that tells what a released checkpoint may not: its heads, its tokenizer
        note       hears what is worth knowing (stderr without it)
        """
        if dtype not in DTYPES:
            raise UserError(f'there is no dtype "{dtype}"', nearest=", ".join(DTYPES))
        if slots < 1:
            raise UserError(f"slots must be a whole number of at least 1, found {slots}")
        found, own, notes = opening.load(folder, best=best, like=like)
        for text in notes:
            (note or _note)(text)
        config = Config(**found.config)
        spoken = own if own is not None and tokenizer is None else _tokenizer(found, like or config, tokenizer)
        # What takes seconds to import comes when most mistakes have been told.
        engine_of = engine_class()
        form = _form(found, config, spoken)
        language = Language(spoken, form.n_vocab)
        engine = engine_of(found.weights, form, slots=slots, dtype=dtype, consume=True)
        about = f"{found.path}, step {found.step:,}; {engine.dtype}: {engine.reason}"
        made = cls(engine, language, about=about, note=note)
        made.config = config
        made.sha256 = found.sha256
        return made

    def generate(self, prompts: str | Sequence[str] | None = None, **options: Any) -> list[Result]:
        """`num_samples` texts for each prompt, in the order of the prompts; without a prompt, documents from nothing."""
        texts = [prompts or ""] if prompts is None or isinstance(prompts, str) else list(prompts)
        chosen = Options.of(options)
        streams = self.open([(text, chosen) for text in texts])
        try:
            return [stream.finished() for stream in streams]
        finally:
            for stream in streams:
                stream.close()

    def stream(self, prompt: str = "", **options: Any) -> Iterator[str]:
        """The text that goes on from `prompt`, piece by piece as it is written, in whole characters.

        Leaving the loop ends the text. Several streams may be read in turns.
        """
        chosen = Options.of(options)
        if chosen.num_samples != 1:
            raise UserError("a stream is one text: num_samples is for generate", nearest="num_samples=1")
        self.language.check(chosen)
        self.language.prompt(prompt)
        return self._stream(prompt, chosen)

    def _stream(self, prompt: str, options: Options) -> Iterator[str]:
        (stream,) = self.open([(prompt, options)])
        try:
            yield from stream
        finally:
            stream.close()

    def score(self, text: str) -> Score:
        """Log-probability of every token of `text`, and its perplexity."""
        return scoring.score(self.engine, self.language, text)

    def open(self, jobs: Sequence[tuple[str | Sequence[int], Options]], *, sample: int = 0) -> list[Stream]:
        """A stream for each sample of each (prompt, options), all written at the same time as far as there are slots.

        Options without a seed get one, the same for all of this call. `sample` is the number of the first sample. The caller
        closes what it does not read to its end.
        """
        seed = secrets.randbelow(2**31)
        streams: list[Stream] = []
        try:
            for prompt, options in jobs:
                seeded = options if options.seed is not None else options.changed({"seed": seed})
                for number in range(sample, sample + options.num_samples):
                    streams.append(self._streams.open(prompt, seeded, sample=number))
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        return streams


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _form(found: Checkpoint, config: Config, tokenizer: Tokenizer) -> Shape:
    """The shape of a checkpoint's model, which its weights have to have."""
    from tfgpt.model.shape import Shape

    # Early checkpoints do not say their vocabulary.
    n_vocab = found.state.get("n_vocab") or config.n_vocab or tokenizer.n_vocab + (tokenizer.eot is None)
    form = Shape.of(config, int(n_vocab))
    wrong = [name for name, shape in form.weights.items() if getattr(found.weights.get(name), "shape", None) != shape]
    if wrong:
        raise UserError(
            f"the weights do not have the shapes that config.json calls for ({', '.join(wrong[:3])})",
            where=found.path,
            fix=f"tfgpt verify {found.path}",
        )
    return form


def _tokenizer(found: Checkpoint, config: Config, named: str | None) -> Tokenizer:
    if named is not None:
        return tokenizers.from_name(named)
    try:
        return tokenizers.from_name(config.tokenizer, encoder_path=config.encoder_path)
    except UserError as error:
        raise UserError(
            f"this checkpoint holds no tokenizer, and that of its configuration cannot be had: {error.what}",
            where=found.path,
            fix="name the tokenizer that the model was trained with: --tokenizer DIR",
        ) from None
