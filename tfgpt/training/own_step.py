"""The step on one CPU: gradients and updates by code compiled for this processor, in the memory of TensorFlow's variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from tfgpt.config import Config
from tfgpt.data.batches import Batches
from tfgpt.errors import Failure
from tfgpt.machine import room_made
from tfgpt.model import GPT
from tfgpt.model.randomness import key_of
from tfgpt.native.gradients import Gradients, Places
from tfgpt.native.products import pairs_are_right
from tfgpt.optimizers import clip_factor, learning_rate
from tfgpt.training.distribution import Place
from tfgpt.training.own_updates import OwnUpdates
from tfgpt.training.step import Outcome, Step


class OwnStep(Step):
    """As `Step`, to rounding. Updates are made where a variable's value lies: reading one makes no copy."""

    compiling = "compiling: half a minute, the first time on this machine ..."

    def __init__(self, config: Config, gpt: GPT, place: Place) -> None:
        super().__init__(config, gpt, place)
        shapes = {name: gpt.form.weights[name] for name in self.names}
        of_pairs = place.precision == "bfloat16"
        if of_pairs and not pairs_are_right():
            raise Failure(
                "this processor says that it multiplies bfloat16, but what it computes is wrong",
                where="$.precision",
                nearest="float32",
                fix="--set precision=float32, or --set xla=off, with which TensorFlow computes",
            )
        self._learn = Gradients(config, gpt.form, names=self.names, of_pairs=of_pairs)
        self._update = OwnUpdates(config, self._learn.team, shapes, self._learn.found)
        self._key = tuple(int(part) for part in key_of(config.seed)) if self._drops_out else None
        self._begun = False

    def train(self, ids: np.ndarray, labels: np.ndarray, segments: np.ndarray | None, *, first: int) -> Outcome:
        """As `Step.train`."""
        steps = first + np.arange(len(ids), dtype=np.int32)
        with nullcontext() if self._begun else room_made():  # the first step compiles, or reads what was compiled
            rows = list(self._steps_made(ids, labels, segments, steps))
        self._begun = True
        return Outcome(*(np.array(column) for column in zip(*rows, strict=True)))

    def evaluate(self, batches: Batches, number: int) -> tuple[float, int]:
        """As `Step.evaluate`."""
        ids, labels, segments = batches.batch(number, rows=self.place.rows(batches.batch_size))
        weights = Places.of(_arrays_of(self.gpt.table), self.gpt.form)
        return self._learn.loss(weights, ids, labels, segments), int((labels >= 0).sum())

    def _steps_made(self, ids, labels, segments, steps: np.ndarray) -> Iterator[tuple[Any, ...]]:
        rates = np.array(learning_rate(self.config, steps))
        told = self._update.told(steps, rates)
        # Read once: nothing but updates changes them from step to step.
        arrays, slots = _arrays_of(self.gpt.table), self._remembered()
        self._update.locate(arrays, slots)
        weights = Places.of(arrays, self.gpt.form)
        for i, (step, rate) in enumerate(zip(steps, rates, strict=True)):
            batch = ids[i], labels[i], None if segments is None else segments[i]
            total, _ = self._learn(weights, *batch, key=self._key, step=int(step))
            tokens = np.int32((labels[i] >= 0).sum())
            share = np.float32(1.0 / max(int(tokens), 1))
            norm = np.float32(self._update.norm() * share)
            finite = bool(np.isfinite(norm) and np.isfinite(np.float32(total)))
            if finite:
                factor = share * np.float32(clip_factor(norm, self.config.clip))
                self._update(factor, [constants[i] for constants in told])
            yield np.float32(total * share), norm, finite, rate, tokens

    def _remembered(self) -> dict[str, dict[str, np.ndarray]]:
        """The optimizer's arrays by slot, and by the weight's name."""
        kinds = {slot for slots in self.slots.values() for slot in slots}
        return {
            kind: _arrays_of({name: slots[kind] for name, slots in self.slots.items() if kind in slots})
            for kind in kinds
        }


def _arrays_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' own memory as arrays, by name."""
    return {name: np.asarray(memoryview(variable._value.value())) for name, variable in variables.items()}
