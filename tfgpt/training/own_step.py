"""The step on one CPU: gradients and AdamW by code compiled for this processor, in the memory of TensorFlow's variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt.config import Config
from tfgpt.data.batches import Batches
from tfgpt.machine import room_made
from tfgpt.model import GPT
from tfgpt.model.randomness import key_of
from tfgpt.optimizers import clip_factor, decays, learning_rate
from tfgpt.optimizers.adam import weight_given
from tfgpt.training.distribution import Place
from tfgpt.training.step import Outcome, Step

if TYPE_CHECKING:
    from tfgpt.native.gradients import Places


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
        self._update = Updates(self._learn.team, [math.prod(shape) for shape in shapes], decay)
        self._gradients = _addresses(self._learn.found[name] for name in self.names)
        self._key = tuple(int(part) for part in key_of(config.seed)) if self._drops_out else None
        # As one graph, in which a program serves all blocks; called one by one they would be compiled for each of them.
        self._change_all = tf.function(self._change, autograph=False)
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
        return self._learn.loss(self._weights(), ids, labels, segments), int((labels >= 0).sum())

    def _steps_made(self, ids, labels, segments, steps: np.ndarray) -> Iterator[tuple[Any, ...]]:
        config = self.config
        rates = np.array(learning_rate(config, steps))
        given = [np.array(weight_given(beta, steps + np.float32(1))) for beta in (config.beta1, config.beta2)]
        weights, slots = self._weights(), self._adams() if config.opt_name == "adam" else None
        for i, (step, rate) in enumerate(zip(steps, rates, strict=True)):
            batch = ids[i], labels[i], None if segments is None else segments[i]
            total, gradients = self._learn(weights, *batch, key=self._key, step=int(step))
            tokens = np.int32((labels[i] >= 0).sum())
            share = np.float32(1.0 / max(int(tokens), 1))
            norm = np.float32(math.sqrt(self._update.squares(self._gradients)) * share)
            finite = bool(np.isfinite(norm) and np.isfinite(np.float32(total)))
            if finite:
                factor = share * np.float32(clip_factor(norm, config.clip))
                if slots is not None:
                    self._update(slots[0], self._constants(factor, rate, given[0][i], given[1][i]))
                else:
                    weights = None  # or the update would have to copy each of them first
                    tensors = {name: tf.constant(gradient) for name, gradient in gradients.items()}
                    self._change_all(tensors, *map(tf.constant, (factor, rate, step)))
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

    def _constants(self, factor, rate, given1, given2) -> list[Any]:
        """What `tfgpt.native.updating.adam` is told; `given` are what the moving averages were given of their weight."""
        config = self.config
        return [
            factor, rate / given1, rate * max(config.weight_decay, 0.0), config.beta1, config.beta2,
            1.0 - config.beta1, 1.0 - config.beta2, 1.0 / given2, config.epsilon,
        ]  # fmt: skip


def _arrays_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' own memory as arrays, by name."""
    return {name: np.asarray(memoryview(variable._value.value())) for name, variable in variables.items()}


def _addresses(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.array([[array.ctypes.data for array in arrays]], np.int64)


def step_for(config: Config, gpt: GPT, place: Place) -> Step:
    """The step of a run there."""
    return (OwnStep if place.own else Step)(config, gpt, place)
