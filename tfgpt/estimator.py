"""`Estimator(config)`: the one object that ties data, model, optimizer and checkpoints together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tfgpt import __version__, files
from tfgpt.config import Config
from tfgpt.data.inputs import Inputs, open_inputs
from tfgpt.errors import UserError
from tfgpt.generation.options import SLOTS, Options
from tfgpt.generation.writing import Result
from tfgpt.locks import folder_lock
from tfgpt.machine import give_memory_back
from tfgpt.model import GPT
from tfgpt.signals import StopRequest
from tfgpt.training import distribution, estimates, evaluation, starting
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.distribution import Place
from tfgpt.training.evaluation import Evaluation
from tfgpt.training.loop import Loop
from tfgpt.training.metrics import Metrics
from tfgpt.training.peak import matrix_peak
from tfgpt.training.run_state import RunState
from tfgpt.training.step import step_for

PROMPT, SAMPLE = 12, 60  # tokens of a sample's prompt and of its continuation


class Estimator:
    """Trains and evaluates the model that a configuration describes, in its folder `model_path`.

    >>> from tfgpt import config
    >>> from tfgpt.estimator import Estimator
    >>> estimator = Estimator(config.load("my_text", overrides=["text=my_texts"]))     # doctest: +SKIP
    >>> estimator.train_and_evaluate().loss                                            # doctest: +SKIP
    3.41
    """

    def __init__(
        self,
        config: Config,
        *,
        tpu: str | None = None,
        workers: Sequence[str] = (),
        worker: int = 0,
        allow_change: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.allow_change = allow_change
        # A TPU and a group of machines have to be set up before TensorFlow does anything else.
        self.place: Place = distribution.place(config, tpu=tpu, workers=workers, worker=worker)
        # Flushed, so that a log file shows lines as they come.
        self.say = (say or partial(print, flush=True)) if self.place.chief else lambda text: None
        distribution.check_batches(config, self.place)
        self.config = config.model_copy(update={"precision": self.place.precision})
        if not self.place.chief:
            distribution.agree(self.place, 0.0)
        self.inputs: Inputs = open_inputs(self.config)
        if self.place.chief:
            # Only now may the others look: the first process alone encodes text that is new.
            distribution.agree(self.place, 0.0)
        with self.place.strategy.scope():
            self.gpt = GPT(self.config, n_vocab=self.inputs.n_vocab)
        self.step = step_for(self.config, self.gpt, self.place)

    def train(self, steps: int | None = None) -> None:
        """Train `steps` more steps (to `max_steps` without), from the last checkpoint on; never beyond `max_steps`."""
        with self._run() as (loop, stop):
            until = self.config.max_steps if steps is None else loop.state.step + steps
            loop.run(min(until, self.config.max_steps), stop)

    def train_and_evaluate(self) -> Evaluation | None:
        """Train to exactly `max_steps`, evaluating every `train_steps`; returns the last evaluation."""
        with self._run() as (loop, stop):
            if loop.state.step >= self.config.max_steps:
                self.say(f"this run is complete: step {loop.state.step:,} of {self.config.max_steps:,}")
                return None
            loop.run(self.config.max_steps, stop)
            loop.recorder.event("stop", why="done")
            self._report()
            return loop.evaluation

    def evaluate(self) -> Evaluation:
        """Evaluate the newest checkpoint; nothing is trained and nothing is written."""
        if self.inputs.eval is None:
            raise UserError(
                "there is no text to evaluate on",
                where="$.eval_steps, $.datasets",
                fix="hold text out: eval_fraction above 0 (with text), or eval files in datasets",
            )
        kept = Checkpoints(self.config.model_path, keep_last=self.config.keep_last)
        state, _ = starting.begin(self.config, self.step, self.inputs, kept=kept, allow_change=self.allow_change)
        if not state.step and not starting.origin(self.config):
            raise UserError(
                "there is no checkpoint to evaluate",
                where=self.config.model_path,
                fix="train first: leave out --eval_only",
            )
        found = evaluation.evaluate(self.step, self.inputs)
        self.say(f"step {state.step:,}  {found}")
        return found

    def predict(
        self, prompts: str | Sequence[str] | None = None, *, dtype: str = "auto", **options: Any
    ) -> list[Result]:
        """Text from the newest checkpoint, for each prompt (none: documents from nothing).

        `top_k` and `num_samples` are those of the configuration (`predict_batch_size`) where `options` do not say otherwise;
        see `tfgpt.generation.options.Options`. `tfgpt.Generator.load(model_path)` does the same, and keeps the model loaded.

        >>> estimator.predict("To be", length=20, seed=1)[0].text                          # doctest: +SKIP
        ' or not to be'
        """
        from tfgpt.generator import Generator

        options = {"top_k": self.config.top_k, "num_samples": self.config.predict_batch_size} | options
        texts = 1 if prompts is None or isinstance(prompts, str) else len(prompts)
        slots = max(1, min(texts * Options.of(options).num_samples, SLOTS))
        generator = Generator.load(self.config.model_path, dtype=dtype, slots=slots, like=self.config, note=self.say)
        return generator.generate(prompts, **options)

    @contextmanager
    def _run(self) -> Iterator[tuple[Loop, StopRequest]]:
        """A run that is open: locked, restored, with its metrics; closed in good order whatever happens."""
        config = self.config
        with ExitStack() as open_things:
            open_things.callback(give_memory_back)  # what steps worked in, should the process live on
            if self.place.chief:
                files.make_folder(config.model_path)
                if not files.is_remote(config.model_path):
                    lock = Path(config.model_path) / "run.lock"
                    open_things.enter_context(folder_lock(lock, purpose="a training run"))
            # What is found wrong before the loop exists (a damaged checkpoint) is told as soon as it does.
            early: list[dict[str, Any]] = []
            tell: list[Callable[[dict[str, Any]], None]] = [early.append]
            kept = Checkpoints(
                config.model_path,
                keep_last=config.keep_last,
                milestone_steps=config.milestone_steps or None,
                on_event=lambda event: tell[0](event),
            )
            if self.place.chief:
                kept.clean()
            state, notes = starting.begin(config, self.step, self.inputs, kept=kept, allow_change=self.allow_change)
            metrics = None
            if self.place.chief:
                metrics = Metrics(
                    config.model_path,
                    resumed_at=state.step if state.step else None,
                    tensorboard=config.tensorboard,
                    wandb=config.wandb,
                )
                open_things.callback(metrics.close)
            peak = matrix_peak(self.place.kind, self.place.precision) * self.place.replicas
            tokenizer = self.inputs.tokenizer
            loop = Loop(
                config,
                self.step,
                self.inputs,
                state,
                kept,
                metrics,
                peak,
                tokenizer.files() if tokenizer else None,
                sample=self._sampler() if config.sample_every and tokenizer else None,
                report=self._report if metrics else lambda: None,
            )
            self._tell_start(state, notes, metrics, peak)
            tell[0] = loop.told
            for event in early:
                loop.told(event)
            message = f"stopped; the checkpoint is in {config.model_path}, and the same command goes on"
            stop = open_things.enter_context(StopRequest(message, at_once=True))
            open_things.enter_context(kept)
            yield loop, stop

    def _sampler(self) -> Callable[[], tuple[str, str]]:
        """Continues the beginning of held-out text (or of nothing)."""
        from tfgpt.generation.decoding import Decoding
        from tfgpt.generation.language import Language
        from tfgpt.generation.uncached import Uncached

        tokenizer = self.inputs.tokenizer
        assert tokenizer is not None
        decoding = Decoding(Uncached(self.gpt), Language(tokenizer, self.inputs.n_vocab))
        options = Options(top_k=self.config.top_k, seed=self.config.seed, length=SAMPLE)
        prompt: list[int] = []
        if self.inputs.eval is not None:
            window = self.inputs.eval.batch(0).ids[0].tolist()
            start = window.index(self.inputs.eot) + 1 if self.inputs.eot in window[:-PROMPT] else 0
            prompt = window[start : start + PROMPT]
        shown = tokenizer.decode([token for token in prompt if token != self.inputs.eot])

        def sample() -> tuple[str, str]:
            number = decoding.add(prompt, options)
            while decoding.busy:
                decoding.step()
            result = decoding.result(number)
            assert result is not None
            # A model that has just lost its way is the guard's business: a look at it ends no run.
            return shown, result.text if result.error is None else f"({result.error.what})"

        return sample

    def _report(self) -> None:
        """Draw the run so far; a report that cannot be written ends no run."""
        from tfgpt import report

        if not self.place.chief:
            return
        try:
            report.write([self.config.model_path], files.join(self.config.model_path, "report.html"))
        except (OSError, UserError) as error:
            self.say(f"note: report.html could not be written: {error}")

    def _tell_start(self, state: RunState, notes: list[str], metrics: Metrics | None, peak: float) -> None:
        form = self.gpt.form
        trained = self.inputs.train_tokens
        for line in estimates.summary(self.config, form, place=self.place, train_tokens=trained, step=state.step):
            self.say(line)
        for note in [*self.inputs.notes, *notes]:
            self.say(f"note: {note}")
        if state.step:
            self.say(f"going on from step {state.step:,} of {self.config.max_steps:,}")
        if metrics is not None:
            metrics.write(
                "resume" if state.step else "start",
                state.step,
                config=self.config.model_dump(mode="json"),
                device=self.place.device,
                precision=self.place.precision,
                reason=self.place.reason,
                replicas=self.place.replicas,
                parameters=form.parameters,
                tokens_per_step=self.config.train_batch_size * self.config.n_ctx,
                flops_per_token=form.training_flops,
                peak_flops=peak,
                bytes_per_token=self.inputs.bytes_per_token,
                train_tokens=self.inputs.train_tokens,
                version=__version__,
                notes=notes,
            )
