"""Where a run begins: at its own last checkpoint, at the weights of another model, or at nothing."""

from __future__ import annotations

import numpy as np

from tfgpt.config import Config
from tfgpt.data.inputs import Inputs
from tfgpt.errors import UserError
from tfgpt.model import initial
from tfgpt.training import changes, distribution, opening, snapshot
from tfgpt.training.checkpoints import Checkpoint, Checkpoints
from tfgpt.training.run_state import RunState
from tfgpt.training.step import Step


def begin(
    config: Config,
    step: Step,
    inputs: Inputs,
    *,
    kept: Checkpoints,
    allow_change: bool = False,
) -> tuple[RunState, list[str]]:
    """Put the weights in place; returns the run's state and what should be noted of it."""
    found = kept.latest()
    begun = found.step if found is not None else -1
    if distribution.agree(step.place, begun) != -distribution.agree(step.place, -begun):
        raise UserError(
            f"the processes of this run do not see the same checkpoints; this one finds {_words(begun)}",
            where=config.model_path,
            fix="put model_path on a file system that all machines share, or into a bucket: gs://...",
        )
    if found is not None:
        state = RunState.of(found.state)
        notes = changes.check(
            found.config,
            config.model_dump(mode="json"),
            data_changed=state.data != inputs.identity,
            allow=allow_change,
        )
        optimizer = found.optimizer
        if allow_change:
            # With another precision or other trainable weights there is state that the checkpoint does not know.
            for name, value in snapshot.first_optimizer(step).items():
                optimizer.setdefault(name, value)
        snapshot.restore(step, found.weights, optimizer)
        if allow_change:
            state.guard.rollbacks = 0
        state.data = inputs.identity
        return state, notes
    return RunState(data=inputs.identity), _from_elsewhere(config, step)


def from_nothing(config: Config, step: Step) -> None:
    """Put every variable back to what a run without a checkpoint begins with."""
    snapshot.initialize(step)
    _from_elsewhere(config, step)


def origin(config: Config) -> str | None:
    """The model that a new run starts from: `init_from`, or the one that lies in model_path itself: a released one, as ConnorJL's
    users have it, or a single checkpoint."""
    if config.init_from:
        return config.init_from
    return config.model_path if opening.is_model(config.model_path) else None


def _from_elsewhere(config: Config, step: Step) -> list[str]:
    place = origin(config)
    if place is None:
        return []
    found, _, notes = opening.load(place, like=config)
    return [*load_weights(step, found), *notes]


def load_weights(step: Step, source: Checkpoint) -> list[str]:
    """Start from the weights of another run; positions are cut or extended to this run's n_ctx, which is said."""
    form, notes = step.gpt.form, [f"weights from {source.path}"]
    notes += _otherwise(step.config, source)
    arrays = dict(source.weights)
    arrays["wte.weight"] = _with_rows(arrays.get("wte.weight"), form.n_vocab, form.rows)
    there = arrays["wpe.weight"].shape[0]
    if there > form.n_ctx:
        arrays["wpe.weight"] = arrays["wpe.weight"][: form.n_ctx]
        notes.append(f"its {there} positions were cut to {form.n_ctx} (n_ctx)")
    elif there < form.n_ctx:
        fresh = initial.value(step.config, "wpe.weight", form.weights["wpe.weight"])
        fresh[:there] = arrays["wpe.weight"]
        arrays["wpe.weight"] = fresh
        notes.append(f"its {there} positions were extended to {form.n_ctx} (n_ctx); the new ones are untrained")
    wrong = [
        f"{name}: {_shape(arrays.get(name))}, needed {list(shape)}"
        for name, shape in form.weights.items()
        if name not in arrays or arrays[name].shape != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"the weights to start from have another shape: {'; '.join(wrong[:3])}{more}",
            where=f"$.init_from is {source.path}",
            fix=" ".join(f"--set {name}={source.config[name]}" for name in ("n_layer", "n_embd", "n_head", "n_vocab")),
        )
    snapshot.restore(step, arrays, None)
    return notes


def _otherwise(config: Config, source: Checkpoint) -> list[str]:
    """What the same weights would compute otherwise here: an error where that makes nonsense of them, else a note."""
    found = opening.differences(config, source.config)
    if nonsense := [what for what in found if what.startswith(("n_head", "activation"))]:
        name = nonsense[0].split()[0]
        raise UserError(
            f"the model to start from was trained otherwise: {'; '.join(nonsense)}",
            where=f"$.init_from is {source.path}",
            fix=f"--set {name}={source.config[name]}",
        )
    return found


def _with_rows(table: np.ndarray | None, n_vocab: int, rows: int) -> np.ndarray:
    if table is None or table.shape[0] < n_vocab:
        raise UserError(
            f"the model to start from knows {0 if table is None else table.shape[0]} ids, this run has {n_vocab}",
            where="$.init_from",
            fix="train with the tokenizer of that model",
        )
    fitting = np.zeros((rows, table.shape[1]), np.float32)
    shared = min(rows, len(table))
    fitting[:shared] = table[:shared]
    return fitting


def _words(step: int) -> str:
    return "none" if step < 0 else f"step {step:,}"


def _shape(array: np.ndarray | None) -> object:
    return "missing" if array is None else list(array.shape)
