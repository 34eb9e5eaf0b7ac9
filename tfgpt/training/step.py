"""One update, compiled: gradients of a batch on every replica, their sum, clip, guard, optimizer.

What Keras's own step gets wrong under a strategy is done here in the order that is right: gradients are of *sums* over
tokens, so replicas and micro-batches simply add; the sum over replicas comes first, then the division by the number of
tokens of the whole batch, then the finite test, then the clip, then the update. The compiled parts are pure functions of
tensors, without variables and without communication, which XLA and tf.distribute both take well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgpt import optimizers
from tfgpt.config import Config
from tfgpt.data.batches import Batches
from tfgpt.errors import UserError
from tfgpt.machine import room_made
from tfgpt.model import GPT
from tfgpt.model.randomness import fold, key_of
from tfgpt.model.variables import own_copies
from tfgpt.optimizers import schedules
from tfgpt.training.distribution import Place
from tfgpt.training.loss_scale import LossScale


class Outcome(NamedTuple):
    """What a call of several steps tells, one entry a step."""

    losses: np.ndarray  # mean nats per token over the whole batch
    norms: np.ndarray  # of the gradient, before the clip
    applied: np.ndarray  # False where the gradient was not finite and nothing was changed
    rates: np.ndarray  # learning rate
    tokens: np.ndarray  # labels that counted


class Step:
    """The compiled steps of a run; owns the optimizer's variables.

    >>> step = Step(config, gpt, place)                                # doctest: +SKIP
    >>> step.train(ids, labels, None, first=0).losses                  # ids, labels: [K, B, T] int32, B of this process
    array([9.01], dtype=float32)
    """

    compiling = "compiling: once, and longer for larger models ..."  # what a person is told before the first step

    def __init__(self, config: Config, gpt: GPT, place: Place) -> None:
        self.config, self.gpt, self.place = config, gpt, place
        self.optimizer = optimizers.build(config)
        self.names = trained_names(config, list(gpt.table))
        self._drops_out = bool(config.embed_dropout or config.attn_dropout or config.res_dropout)
        with place.strategy.scope():
            self.slots = {name: self._make_slots(name) for name in self.names}
            tokens = config.train_batch_size * config.n_ctx // (place.replicas * config.accumulate)
            self.scale = LossScale(tokens) if place.precision == "float16" else None
        self._train: Callable[..., Any] | None = None
        self._evaluate: Callable[..., Any] | None = None
        rows = {"add_rows": _add_rows} if place.kind == "CPU" else {}
        self.parts = gpt.parts(compiled=self._compiled, in_place=place.xla, **rows)
        self._updates = self._make_updates()

    def train(self, ids: np.ndarray, labels: np.ndarray, segments: np.ndarray | None, *, first: int) -> Outcome:
        """Make one update for each leading entry of the arrays [K, B, T]; `first` is the number of updates made before."""
        arrays = self._distribute(ids, labels, segments)
        if self._train is not None:
            return self._run(arrays, first)
        with room_made():
            self._train = tf.function(self._steps, autograph=False)
            # Traced once, for calls of any number of steps.
            self._train.get_concrete_function(*map(_any_count, arrays), tf.TensorSpec([], tf.int32))
            return self._run(arrays, first)

    def evaluate(self, batches: Batches, number: int) -> tuple[float, int]:
        """Sum of the losses and number of tokens of an evaluation batch; rows are added where replicas need equal parts."""
        size = -(-batches.batch_size // self.place.replicas) * self.local_replicas
        batch = batches.batch(number, rows=self.place.rows(batches.batch_size))
        arrays = [
            None if x is None else _padded(x, size, filling)[None] for x, filling in zip(batch, (0, -1, 0), strict=True)
        ]
        if self._evaluate is not None:
            total, count = self._evaluate(*self._distribute(*arrays))
        else:
            with room_made():
                self._evaluate = tf.function(self._measure, reduce_retracing=True, autograph=False)
                total, count = self._evaluate(*self._distribute(*arrays))
        return float(total.numpy()), int(count.numpy())

    def _run(self, arrays: list[Any], first: int) -> Outcome:
        return Outcome(*(x.numpy() for x in self._train(*arrays, tf.constant(first, tf.int32))))

    @property
    def local_replicas(self) -> int:
        """Replicas inside this process."""
        return len(self.place.strategy.experimental_local_results(self.gpt.table["wte.weight"]._value))

    def variables(self) -> dict[str, keras.Variable]:
        """The optimizer's variables by name, "h.0.mlp.c_fc.weight/m"; the loss scale's too."""
        found = {f"{name}/{slot}": v for name, slots in self.slots.items() for slot, v in slots.items()}
        return found | (self.scale.variables() if self.scale else {})

    # The rest is traced by TensorFlow.

    def _steps(self, ids, labels, segments, first):
        strategy = self.place.strategy
        count = tf.shape(strategy.experimental_local_results(ids)[0])[0]
        logs = [tf.TensorArray(kind, count) for kind in (tf.float32, tf.float32, tf.bool, tf.float32, tf.int32)]

        def one(i, logs):
            found = strategy.run(self._replica_step, args=(ids, labels, segments, i, first + i))
            found = [strategy.experimental_local_results(x)[0] for x in found]
            return i + 1, [log.write(i, x) for log, x in zip(logs, found, strict=True)]

        _, logs = tf.while_loop(lambda i, logs: i < count, one, (0, logs), parallel_iterations=1)
        return [log.stack() for log in logs]

    def _replica_step(self, ids, labels, segments, i, step):
        context = tf.distribute.get_replica_context()
        ids, labels = ids[i], labels[i]
        segments = None if segments is None else segments[i]
        scale = self.scale.value() if self.scale else tf.constant(1.0)
        weights = self.gpt.values()
        total, gradients = self._accumulate(weights, ids, labels, segments, step, scale, context)
        tokens = tf.reduce_sum(tf.cast(labels >= 0, tf.int32))
        # Whole numbers travel by themselves: a strategy adds them on the host, and refuses a mixed list.
        tokens = context.all_reduce(tf.distribute.ReduceOp.SUM, tokens)
        total, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [total, *gradients])
        share = 1.0 / (tf.cast(tf.maximum(tokens, 1), tf.float32) * scale)
        norm = _global_norm(gradients) * share
        finite = tf.math.is_finite(norm) & tf.math.is_finite(total)
        rate = schedules.learning_rate(self.config, step)
        factor = share * schedules.clip_factor(norm, self.config.clip)
        by_name = dict(zip(self.names, gradients, strict=True))

        # Nothing gets through from gradients that are not finite. All replicas know the same norm, and go the same way.
        tf.cond(finite, lambda: self._change(by_name, factor, rate, step), lambda: tf.constant(False))
        if self.scale:
            self.scale.update(finite)
        loss = total / (tf.cast(tf.maximum(tokens, 1), tf.float32) * scale)
        return loss, norm, finite, rate, tokens

    def _change(self, gradients, factor, rate, step):
        """Update all weights, by the gradients of that name."""
        for group, update in self._updates:
            places = [_handle(self.gpt.table[name]) for name in group]
            slots = [{slot: _handle(variable) for slot, variable in self.slots[name].items()} for name in group]
            update(places, [gradients[name] for name in group], slots, factor, rate, step)
        return tf.constant(True)

    def _accumulate(self, weights, ids, labels, segments, step, scale, context):
        """Loss and gradients summed over the tokens of this replica, in `accumulate` equal micro-batches."""
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        parts = self.config.accumulate
        if parts == 1:
            return self._gradients(weights, ids, labels, segments, scale, step, replica, tf.constant(0))
        size = ids.shape[0] // parts

        def one(part, total, sums):
            rows = [None if x is None else x[part * size : (part + 1) * size] for x in (ids, labels, segments)]
            mine = [None if x is None else tf.ensure_shape(x, (size, x.shape[1])) for x in rows]
            more, gradients = self._gradients(weights, *mine, scale, step, replica, part)
            return part + 1, total + more, [a + b for a, b in zip(sums, gradients, strict=True)]

        nothing = (0, tf.constant(0.0), [tf.zeros(self.gpt.form.weights[name]) for name in self.names])
        _, total, sums = tf.while_loop(lambda part, *_: part < parts, one, nothing, parallel_iterations=1)
        return total, sums

    def _gradients(self, weights, ids, labels, segments, scale, step, replica, part):
        key = fold(key_of(self.config.seed), step, replica, part) if self._drops_out else None
        loss, found = self.parts.gradients(
            weights, ids, labels, names=self.names, segments=segments, key=key, scale=scale
        )
        return loss, [found[name] for name in self.names]

    def _updater(self, group: Sequence[str]) -> Callable[..., Any]:
        # Variables are read and written inside of the compiled function, which then works in their own memory. Values
        # that came out of it would lie in what the gradients' work needs again, and leave holes where they were.
        def update(places, gradients, slots, factor, rate, step):
            for name, place, gradient, places_of in zip(group, places, gradients, slots, strict=True):
                weight, old = _read(place), {slot: _read(handle) for slot, handle in places_of.items()}
                new, changed = self.optimizer.update(name, weight, gradient * factor, old, lr=rate, step=step)
                _write(place, new)
                for slot, value in changed.items():
                    _write(places_of[slot], value)

        return update

    def _measure(self, ids, labels, segments):
        def replica(ids, labels, segments):
            weights = self.gpt.values()
            own = None if segments is None else segments[0]
            total = self.parts.loss(weights, ids[0], labels[0], segments=own)
            count = tf.reduce_sum(tf.cast(labels >= 0, tf.int32))
            context, add = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
            return [context.all_reduce(add, total), context.all_reduce(add, count)]

        strategy = self.place.strategy
        found = strategy.run(replica, args=(ids, labels, segments))
        return [strategy.experimental_local_results(x)[0] for x in found]

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # Without AutoGraph, which would rewrite every function on the way, and find nothing to do.
        return tf.function(function, autograph=False, **({"jit_compile": True} if self.place.xla else {}))

    def _distribute(self, *arrays: np.ndarray | None) -> list[Any]:
        """Arrays [K, B, T] of this process as tensors, B shared out among its replicas."""
        local = self.local_replicas
        if local == 1 and self.place.replicas == 1:
            return [None if x is None else tf.constant(x) for x in arrays]
        return [None if x is None else self._share_out(x, local) for x in arrays]

    def _share_out(self, array: np.ndarray, local: int):
        size = array.shape[1] // local
        counter = iter(range(local))

        def rows(context):
            own = next(counter)
            return tf.constant(array[:, own * size : (own + 1) * size])

        return self.place.strategy.experimental_distribute_values_from_function(rows)

    def _make_slots(self, name: str) -> dict[str, keras.Variable]:
        shapes = self.optimizer.slots(name, self.gpt.form.weights[name])
        return {slot: own_copies(f"{name}/{slot}", shape, partial(tf.zeros, shape)) for slot, shape in shapes.items()}

    def _make_updates(self) -> list[tuple[list[str], Callable[..., Any]]]:
        """Names of weights that are updated together, and how: a block at a time, all alike ones by one program."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            block = re.match(r"h\.\d+\.", name)
            groups.setdefault(block[0] if block else name, []).append(name)
        programs: dict[tuple[str, ...], Callable[..., Any]] = {}
        updates = []
        for start, group in groups.items():
            kind = tuple(name.removeprefix(start) or name for name in group)
            programs.setdefault(kind, self._compiled(self._updater(group)))
            updates.append((group, programs[kind]))
        return updates


def step_for(config: Config, gpt: GPT, place: Place) -> Step:
    """The step of a run there."""
    if not place.own:
        return Step(config, gpt, place)
    from tfgpt.training.own_step import OwnStep  # with numba, which nobody else needs

    return OwnStep(config, gpt, place)


def trained_names(config: Config, names: Sequence[str]) -> list[str]:
    """Names of the weights that `trainable` chooses; all of them without it."""
    if not config.trainable:
        return list(names)
    for pattern in config.trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f'no weight is named like "{pattern}"',
                where="$.trainable",
                nearest='"h.0.*"',
                fix="names are GPT-2's: wte.weight, h.0.attn.c_attn.weight, ..., ln_f.bias",
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in config.trainable)]


def _global_norm(gradients):
    """Length of all gradients together; not finite if anything in them is not, or if it is beyond 1e19.

    Outside of XLA, whose CPU compiler would write all squares to memory first, as much as the gradients themselves.
    """
    return tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))


def _add_rows(table, ids, rows):
    """Of TensorFlow's ways to add rows to a table this is the one that does not copy the table. One thread does it."""
    return tf.raw_ops.InplaceAdd(x=table, i=ids, v=rows)


def _handle(variable: keras.Variable):
    """This replica's own variable, as raw operations know it: strategies refuse theirs inside of compiled functions."""
    return variable._value.handle


def _read(handle):
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def _write(handle, value) -> None:
    tf.raw_ops.AssignVariableOp(resource=handle, value=value)


def _any_count(array):
    """What a tensor [K, ...], or one for each replica, looks like with any K."""
    if array is None:
        return None
    if isinstance(array, tf.Tensor):
        return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
    spec = tf.type_spec_from_value(array)
    return type(spec)(*[tf.TensorSpec([None, *one.shape[1:]], one.dtype) for one in spec._value_specs])


def _padded(rows: np.ndarray, size: int, filling: int) -> np.ndarray:
    return np.concatenate([rows, np.full((size - len(rows), *rows.shape[1:]), filling, rows.dtype)])
