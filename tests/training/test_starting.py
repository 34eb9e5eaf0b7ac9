"""Where a run begins: from another model's weights, from its own checkpoint under changed keys, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training import small
from tfgpt.errors import Failure, UserError
from tfgpt.estimator import Estimator
from tfgpt.model import initial
from tfgpt.training import checkpoints, snapshot

KEYS = {"max_steps": 6, "train_steps": 6, "save_steps": 6, "eval_steps": 0}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """The folder of a short run."""
    folder = str(tmp_path_factory.mktemp("source"))
    Estimator(small.config(data_path=str(data), model_path=folder, **KEYS), say=quiet).train()
    return folder


def begun(config, **options):
    """An estimator with its weights in place, and what it noted; nothing is trained."""
    said = []
    estimator = Estimator(config, say=said.append, **options)
    with estimator._run() as (loop, _):
        state = loop.state
    return estimator, state, said


def test_weights_of_another_run(configured, source):
    estimator, state, said = begun(configured(init_from=source, **KEYS))
    theirs = checkpoints.load(source).weights
    ours = snapshot.weights_of(estimator.step)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs) and ours.keys() == theirs.keys()
    assert state.step == 0 and any("weights from" in text for text in said)
    assert not any(value.any() for value in snapshot.optimizer_of(estimator.step).values()), "weights only"


@pytest.mark.parametrize("n_ctx, word", [(8, "cut to 8"), (24, "extended to 24")])
def test_positions_are_cut_or_extended_and_that_is_said(configured, source, n_ctx, word):
    config = configured(init_from=source, n_ctx=n_ctx, **KEYS)
    estimator, _, said = begun(config)
    theirs = checkpoints.load(source).weights["wpe.weight"]
    ours = snapshot.weights_of(estimator.step)["wpe.weight"]
    shared = min(16, n_ctx)
    assert (ours[:shared] == theirs[:shared]).all() and any(word in text for text in said)
    assert (ours[16:] == initial.value(config, "wpe.weight", (n_ctx, 32))[16:]).all() and len(ours) == n_ctx


def test_weights_that_do_not_fit_are_refused_with_their_shapes(configured, source):
    with pytest.raises(UserError, match=r"h\.0\.ln_1\.weight|wte\.weight") as error:
        begun(configured(init_from=source, n_embd=16, **KEYS))
    assert "--set n_embd=32" in error.value.fix and error.value.exit_code == 2


def test_a_checkpoint_of_its_own_comes_before_init_from(configured, source, tmp_path):
    Estimator(configured(init_from=source, **KEYS), say=quiet).train(2)
    _, state, _ = begun(configured(init_from=source, **KEYS))
    assert state.step == 2


def test_fine_tuning_that_leaps_early_returns_to_the_source(configured, source):
    from tfgpt.training import starting

    estimator, _, _ = begun(configured(init_from=source, **KEYS))
    estimator.step.train(*small.batches(1), None, first=0)
    starting.from_nothing(estimator.config, estimator.step)
    theirs = checkpoints.load(source).weights
    assert all((v == theirs[name]).all() for name, v in snapshot.weights_of(estimator.step).items())


def test_changed_keys_are_refused_with_the_difference_or_allowed(configured, tmp_path):
    Estimator(configured(**KEYS), say=quiet).train(3)
    with pytest.raises(UserError) as error:
        begun(configured(n_layer=2, lr=0.001, **KEYS), allow_change=True)
    assert "n_layer: 1 -> 2" in str(error.value) and "model_path" in str(error.value)
    with pytest.raises(UserError, match="--allow_change") as error:
        begun(configured(lr=0.001, **KEYS))
    assert "lr: 0.003 -> 0.001" in str(error.value)
    _, state, said = begun(configured(lr=0.001, **KEYS), allow_change=True)
    assert state.step == 3 and any("lr: 0.003 -> 0.001" in text for text in said)
    assert any("lr: 0.003 -> 0.001" in note for note in small.events(tmp_path / "run", "resume")[-1]["notes"])


def test_other_trainable_weights_by_allow_change_begin_with_empty_state(configured):
    Estimator(configured(trainable=["ln_f.*"], **KEYS), say=quiet).train(3)
    estimator, state, _ = begun(configured(trainable=["ln_f.*", "wpe.*"], **KEYS), allow_change=True)
    state_of = snapshot.optimizer_of(estimator.step)
    assert state.step == 3 and state_of["ln_f.bias/m"].any() and not state_of["wpe.weight/m"].any()


def test_restore_changes_nothing_unless_everything_fits():
    import tensorflow as tf

    step = small.step_of(small.config(), small.place(tf.distribute.get_strategy()))
    before = snapshot.weights_of(step)
    wrong = {name: np.zeros_like(value) for name, value in before.items()} | {"ln_f.bias": np.zeros(3, "float32")}
    with pytest.raises(Failure, match=r"ln_f\.bias"):
        snapshot.restore(step, wrong, None)
    assert all(value.tobytes() == before[name].tobytes() for name, value in snapshot.weights_of(step).items())
