"""From the outcomes of calls to lines of metrics, and to the words beside the progress bar."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfgpt.config import Config
from tfgpt.training.evaluation import Evaluation
from tfgpt.training.metrics import Metrics
from tfgpt.training.run_state import RunState
from tfgpt.training.step import Outcome, Step
from tfgpt.training.stopwatch import Stopwatch

LINE_SECONDS = 10.0  # a line is written at least so often, and at least every `iterations` steps


class Recorder:
    """Collects outcomes and writes one line for several calls."""

    def __init__(
        self,
        config: Config,
        step: Step,
        state: RunState,
        metrics: Metrics | None,
        peak: float | None,
        watch: Stopwatch,
    ) -> None:
        self.config, self.step, self.state = config, step, state
        self.metrics, self.peak, self.watch = metrics, peak, watch
        self.outcomes: list[Outcome] = []
        self.smooth: float | None = None
        self.pace = 0.0
        self.elapsed = state.elapsed
        self._batch_tokens = config.train_batch_size * config.n_ctx

    def take(self, outcome: Outcome) -> None:
        """Add what a call did; a line is written when it is time for one."""
        self.outcomes.append(outcome)
        self.state.elapsed = self.elapsed + self.watch.total
        steps = sum(len(o.losses) for o in self.outcomes)
        if steps >= self.config.iterations or self.watch.since_lap >= LINE_SECONDS:
            self.line()

    def words(self, outcome: Outcome) -> str:
        """Loss (smoothed) and learning rate for the progress bar."""
        for loss in outcome.losses[np.isfinite(outcome.losses) & (outcome.tokens > 0)]:
            self.smooth = float(loss) if self.smooth is None else self.smooth + 0.05 * (float(loss) - self.smooth)
        tokens, pace = self._batch_tokens, self._pace()
        loss = "?" if self.smooth is None else f"{self.smooth:.3f}"
        speed = f"  {tokens * pace:,.0f} tokens/s" if pace else ""
        return f"loss {loss}  lr {float(outcome.rates[-1]):.2e}{speed}"

    def line(self) -> None:
        """Write what was collected."""
        if not self.outcomes:
            return
        whole = Outcome(*(np.concatenate(part) for part in zip(*self.outcomes, strict=True)))
        seconds = self.watch.lap()
        self.outcomes = []
        busy = seconds["step"] + seconds["data"]
        tokens = int(whole.tokens.sum())
        weights = whole.tokens / max(tokens, 1)
        loss = float(np.sum(whole.losses.astype(np.float64) * weights)) if tokens else math.nan
        # The one step of the call that compiled has no time of its own.
        # Tokens that do not count in the loss are work as well.
        worked = whole.tokens if self.config.loss_on == "all" else np.full(len(whole.tokens), self._batch_tokens)
        timed = int(worked[1:].sum() if seconds["compile"] else worked.sum())
        rate = timed / busy if timed and busy else None
        flops = None if rate is None else rate * self.step.gpt.form.training_flops
        self.event(
            "train",
            loss=loss,
            losses=whole.losses.tolist(),
            perplexity=math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss,
            lr=float(whole.rates[-1]),
            grad_norm=float(whole.norms[-1]),
            tokens=self.state.tokens,
            tokens_per_second=rate,
            flops_per_second=flops,
            peak_share=flops / self.peak if flops and self.peak else None,
            seconds=seconds,
            elapsed=self.state.elapsed,
            skipped=int(np.sum(~whole.applied)),
        )

    def evaluated(self, found: Evaluation, *, best: bool) -> None:
        """Write an evaluation."""
        self.event(
            "eval",
            loss=found.loss,
            perplexity=found.perplexity,
            bits_per_byte=found.bits_per_byte,
            tokens=found.tokens,
            seconds=found.seconds,
            best=best,
        )

    def event(self, kind: str, **fields: Any) -> None:
        """Write anything else."""
        if self.metrics is not None:
            self.metrics.write(kind, self.state.step, **fields)

    def forget(self) -> None:
        """After a return to an older state: the smoothed loss begins anew."""
        self.outcomes, self.smooth = [], None

    def _pace(self) -> float:
        """Steps a second since the last line; the step that compiled says nothing about it."""
        steps = sum(len(o.losses) for o in self.outcomes)
        busy = self.watch.kinds["step"] + self.watch.kinds["data"]
        if self.watch.kinds["step"]:
            self.pace = steps / busy
        return self.pace
