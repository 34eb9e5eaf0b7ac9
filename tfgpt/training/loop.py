"""The loop: several updates in one call to the device, then a look at the losses, the clock and the signals.

A call ends wherever something has to happen (an evaluation, a checkpoint, the end), and takes about two seconds at most, so
that a signal never waits long. How steps are divided into calls changes no result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfgpt.config import Config
from tfgpt.data.inputs import Inputs
from tfgpt.errors import Interrupted
from tfgpt.progress import Progress
from tfgpt.signals import StopRequest
from tfgpt.training import distribution, evaluation, snapshot, starting
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.evaluation import Evaluation
from tfgpt.training.feeding import Feed
from tfgpt.training.guard import Diverged
from tfgpt.training.metrics import Metrics
from tfgpt.training.recording import Recorder
from tfgpt.training.run_state import RunState
from tfgpt.training.step import Outcome, Step
from tfgpt.training.stopwatch import Stopwatch

CALL_SECONDS = 2.0


@dataclass
class Loop:
    """Trains one model; everything it needs is given to it.

    `sample` makes a prompt and its continuation; `report` draws the run so far, after each evaluation and at the end.
    """

    config: Config
    step: Step
    inputs: Inputs
    state: RunState
    checkpoints: Checkpoints
    metrics: Metrics | None = None  # None in processes that do not write
    peak: float | None = None  # FLOP/s that this machine's matrix products reach
    tokenizer_files: dict[str, bytes] | None = None
    sample: Callable[[], tuple[str, str]] | None = None
    report: Callable[[], None] = lambda: None
    watch: Stopwatch = field(default_factory=Stopwatch)
    evaluation: Evaluation | None = None  # the last one
    bar: Progress | None = None

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.config, self.step, self.state, self.metrics, self.peak, self.watch)

    def run(self, until: int, stop: StopRequest) -> None:
        """Train to step `until`, evaluating and saving on the way; raises `Interrupted` or `Diverged`."""
        self.call_times: list[float] = []  # seconds a step of the calls so far; the first one compiles
        self.last_save, self.saved_at = time.monotonic(), self.state.step
        self.begun_at = self.state.step
        config, state = self.config, self.state
        rows = self.step.place.rows(config.train_batch_size)
        if state.step < until:
            self.say(self.step.compiling)
        with Feed(self.inputs.train, rows) as feed, Progress("train", total=until, unit="", initial=state.step) as bar:
            self.bar = bar
            while state.step < until:
                outcome = self._call(feed, self._count(until), until)
                verdict = self._take_in(outcome)
                if verdict:
                    self._return_to_good(verdict)
                    self._answer(stop)
                    bar.done = state.step
                    continue
                bar.update(len(outcome.losses), self.recorder.words(outcome))
                due = state.step % config.train_steps == 0 or state.step == until
                if due:
                    self._evaluate()
                if self.sample and (due and state.step == until or state.step % config.sample_every == 0):
                    self._show_sample(*self.sample())
                self._save_if_due(last=state.step == until)
                if due:
                    self.report()
                self._answer(stop)
            self.recorder.line()
        self.checkpoints.wait()
        self.bar = None

    def say(self, text: str) -> None:
        """Print a line; in processes that do not write, nothing."""
        if self.step.place.chief:
            self.bar.say(text) if self.bar else print(text, flush=True)

    def told(self, event: dict[str, Any]) -> None:
        """What the checkpoints have to say, to the person and into the metrics."""
        fields = {key: value for key, value in event.items() if key not in ("event", "step")}
        if self.metrics is not None:
            self.metrics.write(event["event"], event["step"], **fields)
        if event["event"] != "save":
            self.say(f"{event['event'].replace('_', ' ')} at step {event['step']:,}: {event['what']}")

    def _count(self, until: int) -> int:
        """Steps of the next call: up to the next thing that must happen, and not for long."""
        config, step = self.config, self.state.step
        ends = [until - step, config.train_steps - step % config.train_steps, config.iterations]
        if config.save_steps:
            ends.append(config.save_steps - step % config.save_steps)
        if config.sample_every:
            ends.append(config.sample_every - step % config.sample_every)
        if (skip := self.state.until_skip(step)) is not None:
            ends.append(skip)
        if len(self.call_times) < 2:
            return 1  # the first call compiles, and the second one tells how long a step takes
        wanted = max(1, int(CALL_SECONDS / self.call_times[-1]))
        # Processes that work together must make the same calls: the slowest one's wish is everybody's.
        return min(*ends, int(-distribution.agree(self.step.place, -wanted)))

    def _call(self, feed: Feed, count: int, until: int) -> Outcome:
        state, waited = self.state, feed.waited
        batch = feed.take(state.position(state.step), count, then=min(count, until - state.step - count))
        self.watch.add("data", feed.waited - waited)
        with self.watch.running("step" if self.call_times else "compile"):
            started = time.monotonic()
            outcome = self.step.train(*batch, first=state.step)
            self.call_times = [*self.call_times[-1:], (time.monotonic() - started) / count]
        return outcome

    def _take_in(self, outcome: Outcome) -> str:
        """Count what was done; returns what is wrong with it, if anything."""
        verdict, count = "", 0
        for loss, applied in zip(outcome.losses, outcome.applied, strict=True):
            count += 1
            if loss == 0 and not outcome.tokens[count - 1]:
                continue  # no token of this batch counts (see loss_on), which says nothing about the model
            if self.config.guard != "off" and (verdict := self.state.guard.look(float(loss), bool(applied))):
                # What came behind in the same call is forgotten: where the run turns back must not depend on how many
                # steps a call had, which is a matter of the clock.
                outcome = Outcome(*(part[:count] for part in outcome))
                break
        self.state.step += count
        self.state.tokens += int(outcome.tokens.sum())
        self.recorder.take(outcome)
        return verdict

    def _evaluate(self) -> None:
        if self.inputs.eval is None or self.config.eval_steps == 0:
            return
        self.recorder.line()
        with self.watch.running("eval"):
            found = self.evaluation = evaluation.evaluate(self.step, self.inputs)
        best = self.checkpoints.best()
        is_best = best is None or found.loss < best[1]
        if is_best and self.step.place.chief:
            self.checkpoints.mark_best(self.state.step, found.loss)
            self._save()
        self.recorder.evaluated(found, best=is_best)
        self.say(f"step {self.state.step:,}  {found}" + ("  (best so far)" if is_best else ""))

    def _show_sample(self, prompt: str, text: str) -> None:
        self.recorder.event("sample", prompt=prompt, text=text)
        lines = f"{prompt}|{text}".strip().splitlines()
        self.say(
            "\n".join(
                [f"step {self.state.step:,}  a sample (the prompt ends at the bar):", *(f"    {x}" for x in lines)]
            )
        )

    def _save_if_due(self, *, last: bool) -> None:
        config, step = self.config, self.state.step
        minutes = (time.monotonic() - self.last_save) / 60
        due = (config.save_steps and step % config.save_steps == 0) or last
        due = due or bool(config.save_minutes and minutes >= config.save_minutes)
        # In the middle of a leap of the loss nothing is saved: the guard may be about to go back to the last save.
        calm = not (self.state.guard.high or self.state.guard.refused)
        if last:
            self._make_sure_of_save()
        elif due and calm and self.saved_at != step:
            self._save()
        self.checkpoints.poll()

    def _save(self, *, wait: bool = False) -> None:
        """A checkpoint of the present state; the disk's part of it happens while training goes on."""
        self.recorder.line()
        self.last_save, self.saved_at = time.monotonic(), self.state.step
        if not self.step.place.chief:
            return
        with self.watch.running("save"):
            self.checkpoints.save(
                self.state.step,
                snapshot.weights_of(self.step),
                snapshot.optimizer_of(self.step),
                # A configuration may leave the size of the vocabulary open; whoever reads a checkpoint must know it.
                {**self.state.as_dict(), "n_vocab": self.step.gpt.form.n_vocab},
                self.config.model_dump(mode="json"),
                self.tokenizer_files,
                wait=wait,
            )

    def _make_sure_of_save(self) -> None:
        """Return when a checkpoint of the present step is on the disk; Failure if there can be none."""
        self.checkpoints.wait()
        # A save that failed was only told of; the next one may find room.
        saved = self.begun_at if self.checkpoints.saved is None else self.checkpoints.saved
        if not saved == self.saved_at == self.state.step:
            self._save(wait=True)

    def _answer(self, stop: StopRequest) -> None:
        """After a signal: save once, and leave. Every process leaves if one of them is asked to."""
        asked = int(distribution.agree(self.step.place, stop.requested))
        if asked:
            self._make_sure_of_save()
            self.recorder.line()
            self.recorder.event("stop", why=f"signal {asked}")
            raise Interrupted(asked, f"{stop.message} (step {self.state.step:,})")

    def _return_to_good(self, verdict: str) -> None:
        """Back to the last checkpoint, and on behind the data that led here; the second time, stop."""
        state, bad = self.state, self.state.step
        self.recorder.line()
        if self.config.guard == "stop" or state.guard.rollbacks:
            why = f"step {bad:,}: {verdict}"
            self.checkpoints.wait()
            self.recorder.event("stop", why=f"guard: {why}")
            times = "" if self.config.guard == "stop" else ", for the second time"
            raise Diverged(
                f"training was stopped{times}: {why}",
                where=self.config.model_path,
                fix=f"a lower learning rate (--set lr={self.config.lr / 2:g}) or a longer warm-up as a rule; the last "
                "checkpoint is good, so the same command with --allow_change goes on from there",
            )
        # All processes must turn back to the same checkpoint, so the one that writes has to have finished its last one.
        self.checkpoints.wait()
        distribution.agree(self.step.place, 0.0)
        found = self.checkpoints.latest(at_most=bad)
        if found is None:
            starting.from_nothing(self.config, self.step)
            fresh = RunState(data=state.data)
        else:
            snapshot.restore(self.step, found.weights, found.optimizer)
            fresh = RunState.of(found.state)
        # Nor may it remove one that another process still reads.
        distribution.agree(self.step.place, 0.0)
        first, last = fresh.position(fresh.step), state.position(bad - 1)
        fresh.skips.append([fresh.step, last + 1 - first])
        fresh.guard.rollbacks = state.guard.rollbacks + 1
        fresh.elapsed = state.elapsed
        self.recorder.forget()
        self.recorder.event("rollback", to=fresh.step, why=verdict, skipped=[first, last])
        vars(state).update(vars(fresh))
        self.say(
            f"step {bad:,}: {verdict}; back to step {state.step:,}, and on behind the batches {first:,} to {last:,}"
        )
        if found is not None:
            self._save()
