"""`Estimator` as a program uses it: train some steps, evaluate, train on, begin from another model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training import small
from tfgpt.errors import UserError
from tfgpt.estimator import Estimator

KEYS = {"max_steps": 12, "train_steps": 6, "save_steps": 5}


def test_train_evaluate_train(configured, tmp_path):
    """Steps as asked for, never beyond max_steps; the evaluation is that of the state on the disk."""
    said = []
    estimator = Estimator(configured(**KEYS), say=said.append)
    with pytest.raises(UserError, match="no checkpoint"):
        estimator.evaluate()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    estimator.train(4)
    assert small.last(tmp_path / "run").step == 4
    assert small.last(tmp_path / "run").state["n_vocab"] == estimator.inputs.n_vocab == 257
    first = estimator.evaluate()
    before = small.lines(tmp_path / "run")
    assert estimator.evaluate().loss == first.loss
    assert small.lines(tmp_path / "run") == before, "an evaluation writes nothing"
    estimator.train(100)
    assert small.last(tmp_path / "run").step == 12 and max(small.losses(tmp_path / "run")) == 12
    found = estimator.evaluate()
    assert found.loss == small.evals(tmp_path / "run")[12] < first.loss
    assert found.perplexity == pytest.approx(np.exp(found.loss))
    # Ten cuts and one run: the same.
    whole = Estimator(configured(model_path=str(tmp_path / "whole"), **KEYS), say=said.append)
    assert whole.train_and_evaluate().loss == found.loss
    small.bit_equal(small.last(tmp_path / "whole"), small.last(tmp_path / "run"))
    assert whole.train_and_evaluate() is None and any("complete" in text for text in said)


def test_bits_per_byte_follow_from_loss_and_ledger(configured, data):
    """Counted anew: the evaluation text's bytes by reading it, the tokens by their definition (a byte each, and an end)."""
    from tfgpt.data import ledger

    estimator = Estimator(configured(eval_steps="all", **KEYS), say=lambda text: None)
    estimator.train(1)
    found = estimator.evaluate()
    known = ledger.read(str(data)).totals("eval")
    labels = known["tokens"] + known["records"]
    assert found.tokens == labels
    assert found.bits_per_byte == pytest.approx(found.loss * labels / np.log(2) / known["text_bytes"])


def test_evaluation_is_the_token_weighted_mean(configured):
    """Against a loop over the windows one by one through the logits, in float64."""
    estimator = Estimator(configured(eval_batch_size=5, eval_steps=3, **KEYS), say=lambda text: None)
    estimator.train(1)
    found, total, count = estimator.evaluate(), 0.0, 0
    for number in range(3):
        ids, labels, _ = estimator.inputs.eval.batch(number)
        logits = np.asarray(estimator.gpt(ids), np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        real = labels >= 0
        total -= np.take_along_axis(logits, np.maximum(labels, 0)[..., None], -1)[..., 0][real].sum()
        count += real.sum()
    assert found.tokens == count and found.loss == pytest.approx(total / count, abs=1e-5)
