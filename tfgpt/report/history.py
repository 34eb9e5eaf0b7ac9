"""The history of one run, put together from the lines of its metrics.jsonl: curves, evaluations, sessions, events."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tfgpt.report.lines import Lines, number, numbers

# Where wall time goes, in the order in which it is shown. "lost" is work that a crash or a rollback made void.
PARTS = ("step", "data", "compile", "eval", "save", "lost", "other")
LARGEST = 1e100  # what is beyond has overflowed in all but name, and so would the arithmetic of a chart
AXES = ("steps", "tokens", "time")


class Curve(NamedTuple):
    """Values after so many updates; steps are int64 [n] and grow, values float64 [n], NaN where not finite."""

    steps: np.ndarray
    values: np.ndarray


class Eval(NamedTuple):
    """One evaluation: mean nats a token, exp of that, bits a byte (NaN where unknown), tokens and seconds."""

    step: int
    loss: float
    perplexity: float
    bits_per_byte: float


class Event(NamedTuple):
    """Something out of the ordinary: resume, rollback, fallback, save_failed, skipped, nonfinite, note or stop."""

    kind: str
    step: int
    time: float
    text: str


class Sample(NamedTuple):
    """Text the model wrote after so many updates."""

    step: int
    prompt: str
    text: str


class Session(NamedTuple):
    """One process that trained: the step it began at, its first and last second (unix), and its start line."""

    step: int
    begin: float
    end: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class History:
    """All of a run. `loss` has a value for each step; the curves below it one for each line of the file."""

    run: str
    loss: Curve
    abandoned: list[Curve]  # losses of steps that a crash or a rollback made void, oldest first
    lr: Curve
    grad_norm: Curve
    tokens_per_second: Curve
    flops_per_second: Curve
    peak_share: Curve
    evals: list[Eval]
    events: list[Event]
    samples: list[Sample]
    sessions: list[Session]
    shares: dict[str, float]  # wall seconds by PARTS
    broken: int  # lines that could not be read
    ticks: tuple[np.ndarray, np.ndarray, np.ndarray] = field(repr=False)  # step, tokens, seconds at the end of lines

    @property
    def facts(self) -> dict[str, Any]:
        """The newest start or resume line: config, device, precision, parameters and so on."""
        return self.sessions[-1].facts if self.sessions else {}

    @property
    def config(self) -> dict[str, Any]:
        """All keys of the configuration as the newest session ran it."""
        found = self.facts.get("config")
        return found if isinstance(found, dict) else {}

    @property
    def step(self) -> int:
        """Updates that stand: those of the last line that was not made void."""
        known = [int(self.loss.steps[-1])] if self.loss.steps.size else [s.step for s in self.sessions[-1:]]
        return max([*known, *(e.step for e in self.evals[-1:]), 0])

    @property
    def best_eval(self) -> Eval | None:
        """The evaluation of lowest loss, None before the first finite one."""
        return min((e for e in self.evals if math.isfinite(e.loss)), key=lambda e: e.loss, default=None)

    @property
    def stop(self) -> Event | None:
        """How the run ended; None while it goes on, or after a kill."""
        latest = next((e for e in reversed(self.events) if e.kind in ("stop", "resume")), None)
        return latest if latest and latest.kind == "stop" else None

    def x(self, axis: str, steps: np.ndarray) -> np.ndarray:
        """Where `steps` lie on an axis of AXES: as they are, as tokens trained, or as seconds of training."""
        steps = np.asarray(steps, np.float64)
        if axis == "steps" or not self.ticks[0].size:
            return steps if axis == "steps" else np.zeros(steps.shape)
        return np.interp(steps, self.ticks[0], self.ticks[AXES.index(axis)])


def read(run: str) -> History:
    """The history of the run in folder `run` (gs:// too).

    A resume at step r voids what was written of later steps by a process that died; so does a rollback.

    >>> read("models/mine").loss.values[-1]                          # doctest: +SKIP
    3.1875
    """
    lines, reading = Lines(run), _Reading()
    for line in lines:
        reading.take(line)
    return reading.history(run, lines.broken)


class _Reading:
    """What has been read so far; `stack` holds the train lines that stand, so that a resume takes off its top."""

    def __init__(self) -> None:
        self.stack: list[tuple[np.ndarray, np.ndarray, dict[str, Any]]] = []
        self.abandoned: list[Curve] = []
        self.evals: list[Eval] = []
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.sessions: list[Session] = []
        self.shares = dict.fromkeys(PARTS, 0.0)
        self.tail: dict[str, float] = {}  # seconds of evaluations and saves since the last train line

    def take(self, line: dict[str, Any]) -> None:
        kind, step = line["event"], line["step"]
        if kind in ("start", "resume"):
            self._settle()
            lost = self._void(step)
            if self.sessions:
                again = f"; {lost:,} steps are done again" if lost else ""
                self._event(line, "resume", f"training went on from step {step:,}{again}")
            self.sessions.append(Session(step, line["time"], line["time"], line))
        elif not self.sessions:
            self.sessions.append(Session(step, line["time"], line["time"], {}))
        # What is said while a checkpoint is looked for belongs to the session that is about to begin.
        end = self.sessions[-1].end
        if kind != "fallback" and (line["time"] > end or math.isnan(end)):
            self.sessions[-1] = self.sessions[-1]._replace(end=line["time"])
        handler = getattr(self, f"_{kind}", None) if kind in HANDLED else None
        if handler:
            handler(line)

    def _train(self, line: dict[str, Any]) -> None:
        losses, step = numbers(line.pop("losses", None)), line["step"]
        if not 0 < losses.size <= step:
            losses = np.array([number(line.get("loss"))])
        losses[~(np.abs(losses) < LARGEST)] = np.nan
        # A file edited by hand, or two processes at once, must not make steps run backwards.
        first = step - losses.size + 1
        self._void(first - 1, keep=False)
        self.stack.append((np.arange(first, step + 1), losses, line))
        self.tail = {}
        for part, seconds in _seconds(line).items():
            self.shares[part] += seconds
        if np.isnan(losses).any():
            bad = first + int(np.flatnonzero(np.isnan(losses))[0])
            self._event({**line, "step": bad}, "nonfinite", f"{int(np.isnan(losses).sum())} losses were not finite")
        if number(line.get("skipped")) > 0:
            self._event(line, "skipped", f"{int(number(line['skipped'])):,} updates were refused")

    def _eval(self, line: dict[str, Any]) -> None:
        loss = _finite(line.get("loss"))
        perplexity = _finite(line.get("perplexity"))
        if math.isnan(perplexity) and loss < 700:
            perplexity = math.exp(loss)
        while self.evals and self.evals[-1].step >= line["step"]:
            self.evals.pop()  # a session that begins where another one evaluated may do so again
        self.evals.append(Eval(line["step"], loss, perplexity, _finite(line.get("bits_per_byte"))))
        self._add_tail("eval", line)

    def _save(self, line: dict[str, Any]) -> None:
        self._add_tail("save", line)

    def _save_failed(self, line: dict[str, Any]) -> None:
        self._event(line, "save_failed", f"a checkpoint could not be saved: {_text(line, 'what')}")

    def _rollback(self, line: dict[str, Any]) -> None:
        to = number(line.get("to"))
        target = int(to) if 0 <= to <= line["step"] else line["step"]
        skipped = numbers(line.get("skipped"))
        window = f"; data positions {skipped[0]:,.0f} to {skipped[1]:,.0f} are skipped" if skipped.size == 2 else ""
        self._event(line, "rollback", f"{_text(line, 'why') or 'the guard'}: back to step {target:,}{window}")
        self._void(target)

    def _fallback(self, line: dict[str, Any]) -> None:
        self._event(line, "fallback", f"{_text(line, 'path')} was damaged and passed over: {_text(line, 'what')}")

    def _sample(self, line: dict[str, Any]) -> None:
        self.samples.append(Sample(line["step"], _text(line, "prompt"), _text(line, "text")))

    def _stop(self, line: dict[str, Any]) -> None:
        self._event(line, "stop", _text(line, "why") or "stopped")

    def _note(self, line: dict[str, Any]) -> None:
        self._event(line, "note", _text(line, "what"))

    def _event(self, line: dict[str, Any], kind: str, text: str) -> None:
        self.events.append(Event(kind, line["step"], line["time"], text))

    def _add_tail(self, part: str, line: dict[str, Any]) -> None:
        # A train line states the seconds since the one before; what follows the last one nobody else counts.
        self.tail[part] = self.tail.get(part, 0.0) + max(0.0, _zero(line.get("seconds")))

    def _settle(self) -> None:
        for part, seconds in self.tail.items():
            self.shares[part] += seconds
        self.tail = {}

    def _void(self, step: int, *, keep: bool = True) -> int:
        """Take back what lies beyond `step`; how many steps that were."""
        steps, losses = [], []
        while self.stack and self.stack[-1][0][-1] > step:
            at, values, line = self.stack.pop()
            inside = int(np.searchsorted(at, step, "right"))
            steps.append(at[inside:])
            losses.append(values[inside:])
            seconds = {part: s for part, s in _seconds(line).items() if part in ("step", "data")}
            for part, s in seconds.items():
                self.shares[part] -= s * (1 - inside / at.size)
                self.shares["lost"] += s * (1 - inside / at.size)
            if inside:
                rest = {part: s * inside / at.size for part, s in seconds.items()}
                # What else the line says (tokens, lr, ...) belongs to its last step, which is void.
                self.stack.append(
                    (at[:inside], values[:inside], {**line, "step": step, "seconds": rest, "partial": True})
                )
                break
        if steps and keep:
            self.abandoned.append(Curve(np.concatenate(steps[::-1]), np.concatenate(losses[::-1])))
        self.evals = _up_to(self.evals, step) if keep else self.evals
        self.samples = _up_to(self.samples, step) if keep else self.samples
        return sum(at.size for at in steps)

    def history(self, run: str, broken: int) -> History:
        self._settle()
        wall = sum(max(0.0, _zero(s.end - s.begin)) for s in self.sessions)
        self.shares["other"] += max(0.0, wall - sum(self.shares.values()))
        lines = [line for _, _, line in self.stack]
        whole = [line for line in lines if "partial" not in line]
        ends = np.array([line["step"] for line in whole], np.int64)

        def curve(name: str) -> Curve:
            values = np.array([_finite(line.get(name)) for line in whole])
            # A norm that is not finite shows as a gap; what a machine cannot know, such as its peak, as no curve at all.
            known = np.full(values.size, name == "grad_norm") | ~np.isnan(values)
            return Curve(ends[known], values[known])

        loss = Curve(
            np.concatenate([at for at, _, _ in self.stack]) if lines else np.empty(0, np.int64),
            np.concatenate([values for _, values, _ in self.stack]) if lines else np.empty(0),
        )
        return History(
            run=run, loss=loss, abandoned=self.abandoned, lr=curve("lr"), grad_norm=curve("grad_norm"),
            tokens_per_second=curve("tokens_per_second"), flops_per_second=curve("flops_per_second"),
            peak_share=curve("peak_share"), evals=self.evals, events=self.events, samples=self.samples,
            sessions=self.sessions, shares=self.shares, broken=broken, ticks=self._ticks(whole),
        )  # fmt: skip

    def _ticks(self, lines: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        begin = self.sessions[0].begin if self.sessions else math.nan
        per_step = _zero(self.sessions[-1].facts.get("tokens_per_step")) if self.sessions else 0.0
        rows = [(0.0, 0.0, 0.0)] if lines and self.sessions[0].step == 0 else []
        for line in lines:
            tokens, elapsed = _finite(line.get("tokens")), _finite(line.get("elapsed"))
            tokens = line["step"] * per_step if math.isnan(tokens) else tokens
            elapsed = line["time"] - begin if math.isnan(elapsed) else elapsed
            rows.append((line["step"], tokens, elapsed))
        table = np.nan_to_num(np.array(rows, np.float64).reshape(-1, 3))
        steps, tokens, seconds = np.maximum.accumulate(table, axis=0).T if rows else table.T
        return steps, tokens, seconds


HANDLED = ("train", "eval", "save", "save_failed", "rollback", "fallback", "sample", "stop", "note")


def _seconds(line: dict[str, Any]) -> dict[str, float]:
    found = line.get("seconds")
    if not isinstance(found, dict):
        return {}
    out: dict[str, float] = {}
    for part, value in found.items():
        name = part if part in PARTS else "other"
        out[name] = out.get(name, 0.0) + max(0.0, _zero(value))
    return out


def _up_to(items: list, step: int) -> list:
    return [item for item in items if item.step <= step]


def _finite(value: Any) -> float:
    found = number(value)
    return found if abs(found) < LARGEST else math.nan


def _zero(value: Any) -> float:
    found = number(value)
    return found if abs(found) < LARGEST else 0.0


def _text(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    return value if isinstance(value, str) else "" if value is None else str(value)
