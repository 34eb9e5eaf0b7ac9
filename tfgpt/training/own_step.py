"""The step on one CPU: gradients and AdamW by code compiled for this processor, in the memory of TensorFlow's variables."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt.config import Config
from tfgpt.data.batches import Batches
from tfgpt.machine import room_made
from tfgpt.model import GPT
from tfgpt.optimizers import decays, learning_rate
from tfgpt.training.distribution import Place
from tfgpt.training.step import Outcome, Step, handle_of

if TYPE_CHECKING:
    from tfgpt.native.gradients import Places


def reason_against(config: Config, kind: str, precision: str, *, replicas: int) -> str | None:
    """Why a run's steps are not made here; None if they are."""
    if kind != "CPU":
        return f"it is for CPUs, this is a {kind}"
    if precision != "float32":
        return f"it has no {precision}"
    if replicas > 1:
        return "it is for one replica"
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return None


class OwnStep(Step):
    """As `Step`, to rounding. What AdamW changes it changes where the variable's value lies: reading one makes no copy."""

    compiling = "compiling: half a minute, the first time on this machine ..."

    def __init__(self, config: Config, gpt: GPT, place: Place) -> None:
        from tfgpt.native.gradients import Gradients
        from tfgpt.native.updating import Updates

        super().__init__(config, gpt, place)
        shapes = [gpt.form.weights[name] for name in self.names]
        decay = [decays(config, name, shape) for name, shape in zip(self.names, shapes, strict=True)]
        self._learn = Gradients(config, gpt.form, names=self.names)
        self._update = Updates([math.prod(shape) for shape in shapes], decay)
        self._gradients = _addresses(self._learn.found[name] for name in self.names)
        self._key = config.seed & 0xFFFFFFFF, ((config.seed >> 32) ^ 0x5EED) & 0xFFFFFFFF  # as `randomness.key_of`
        self._begun = False

    def train(self, ids: np.ndarray, labels: np.ndarray, segments: np.ndarray | None, *, first: int) -> Outcome:
        """As `Step.train`."""
        steps = first + np.arange(len(ids), dtype=np.int32)
        rates = np.array(learning_rate(self.config, steps))
        batches = zip(ids, labels, [None] * len(ids) if segments is None else segments, strict=True)
        steps_at_rates = zip(batches, rates, steps, strict=True)
        if self._begun:
            rows = list(self._steps_made(steps_at_rates))
        else:
            with room_made():  # the first step compiles, or reads what was compiled
                rows = list(self._steps_made(steps_at_rates))
            self._begun = True
        return Outcome(*(np.array(column) for column in zip(*rows, strict=True)))

    def evaluate(self, batches: Batches, number: int) -> tuple[float, int]:
        """As `Step.evaluate`."""
        ids, labels, segments = batches.batch(number, rows=self.place.rows(batches.batch_size))
        return self._learn.loss(self._weights(), ids, labels, segments), int((labels >= 0).sum())

    def _steps_made(self, given: Iterable[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, ...]]:
        from tfgpt.native.dropout import folded

        adam = self.config.opt_name == "adam"
        weights, slots = self._weights(), self._adams() if adam else None
        for (ids, labels, segments), rate, step in given:
            key = folded(self._key, int(step), 0) if self._drops_out else None
            total, gradients = self._learn(weights, ids, labels, segments, parts=self.config.accumulate, key=key)
            tokens = np.int32((labels >= 0).sum())
            share = np.float32(1.0 / max(int(tokens), 1))
            norm = np.float32(math.sqrt(self._update.squares(self._gradients)) * share)
            finite = bool(np.isfinite(norm) and np.isfinite(np.float32(total)))
            if finite:
                factor = share * self._clip(norm)
                if slots is not None:
                    self._update(slots[0], self._constants(factor, rate, step))
                else:
                    weights = None  # or the update would have to copy each of them first
                    self._change(gradients, factor, rate, step)
                    weights = self._weights()
            yield np.float32(total * share), norm, finite, rate, tokens

    def _weights(self) -> Places:
        from tfgpt.native.gradients import Places

        return Places.of(_arrays_of(self.gpt.table), self.gpt.form)

    def _adams(self) -> tuple[np.ndarray, Any]:
        """Addresses for `Updates`, and what lies there."""
        weights = _arrays_of({name: self.gpt.table[name] for name in self.names})
        slots = [_arrays_of({name: self.slots[name][slot] for name in self.names}) for slot in ("m", "v")]
        rows = [_addresses(weights.values()), self._gradients, *(_addresses(slot.values()) for slot in slots)]
        return np.concatenate(rows), (weights, slots)

    def _clip(self, norm: np.float32) -> np.float32:
        limit = np.float32(self.config.clip)
        return np.float32(1) if limit == 0 else limit / max(norm, limit)

    def _constants(self, factor: np.float32, rate: np.float32, step: np.int32) -> list[Any]:
        """What `tfgpt.native.updating.adam` is told."""
        config, count = self.config, float(step) + 1.0
        given = [-math.expm1(count * math.log(beta)) if beta else 1.0 for beta in (config.beta1, config.beta2)]
        return [
            factor, rate / given[0], rate * max(config.weight_decay, 0.0), config.beta1, config.beta2,
            1.0 - config.beta1, 1.0 - config.beta2, 1.0 / given[1], config.epsilon,
        ]  # fmt: skip

    def _change(self, gradients: Mapping[str, np.ndarray], factor, rate, step) -> None:
        """The update of any other optimizer, as TensorFlow's step makes it."""
        about = tf.constant(factor, tf.float32), tf.constant(rate, tf.float32), tf.constant(step, tf.int32)
        for group, update in self._updates:
            places = [handle_of(self.gpt.table[name]) for name in group]
            slots = [{slot: handle_of(variable) for slot, variable in self.slots[name].items()} for name in group]
            update(places, [tf.constant(gradients[name]) for name in group], slots, *about)


def _arrays_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' own memory as arrays, by name."""
    return {name: np.asarray(memoryview(variable._value.value())) for name, variable in variables.items()}


def _addresses(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.array([[array.ctypes.data for array in arrays]], np.int64)


def made(config: Config, gpt: GPT, place: Place) -> Step:
    """The step of a run there."""
    return (OwnStep if place.own else Step)(config, gpt, place)
