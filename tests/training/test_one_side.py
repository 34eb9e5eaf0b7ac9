"""Loss on one side of a chat (loss_on): against GPT-2 in NumPy, in micro-batches, over a resume, in an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import run as encode
from tests.data.test_sides import counted
from tests.model.reference import Reference
from tests.training import small
from tfgpt import chat
from tfgpt.data.documents import Rules
from tfgpt.estimator import Estimator
from tfgpt.training import snapshot


def here():
    return small.place(tf.distribute.get_strategy())


def test_every_update_has_the_mean_over_the_tokens_that_count():
    """Loss and length of the gradient in float64; a batch in which nothing counts has neither, and breaks nothing."""
    ids, labels = small.chats()
    step = small.step_of(small.config(), here())
    for i in range(4):
        weights = snapshot.weights_of(step)
        outcome = step.train(ids[i : i + 1], labels[i : i + 1], None, first=i)
        truth, count = Reference(weights, heads=2, n_vocab=257), (labels[i] >= 0).sum()
        assert outcome.tokens[0] == count and outcome.applied[0]
        if not count:
            assert i == 2 and outcome.losses[0] == outcome.norms[0] == 0.0
            continue
        assert count < labels[i].size / 2
        assert outcome.losses[0] == pytest.approx(truth.loss(ids[i], labels[i]) / count, abs=1e-5)
        length = np.sqrt(sum((g**2).sum() for g in truth.gradients(ids[i], labels[i]).values()))
        assert outcome.norms[0] == pytest.approx(length / count, rel=1e-4)
    assert all(np.isfinite(value).all() for value in snapshot.weights_of(step).values())


def test_micro_batches_make_the_same_updates():
    one = small.updates(small.config(), here(), data=small.chats())
    small.same(one, small.updates(small.config(accumulate=8), here(), data=small.chats()))


def test_a_run_a_resume_and_an_evaluation(tmp_path):
    found = [
        chat.Message(bool(n % 3), name, f"message {n} " * (n % 4))
        for n in range(30)
        for name in ("ann", "bob", "cy", "di")
    ]
    (tmp_path / "a.chat").write_text(chat.write(found))
    rules = Rules(eval_fraction=0.3, minimum_size=1)
    encode(tmp_path / "a.chat", tmp_path / "data", tokenizer="byte", rules=rules)
    keys = {
        "data_path": str(tmp_path / "data"),
        "loss_on": "sent",
        "max_steps": 12,
        "train_steps": 6,
        "eval_steps": "all",
    }
    said = []

    def estimator(name):
        return Estimator(small.config(**keys, model_path=str(tmp_path / name)), say=said.append)

    cut = estimator("run")
    cut.train(5)
    estimator("run").train(100)
    whole = estimator("whole")
    evaluation = whole.train_and_evaluate()
    small.bit_equal(small.last(tmp_path / "whole"), small.last(tmp_path / "run"))
    assert any("loss_on sent" in text for text in said)
    # In an evaluation, each token of the held-out text is a label once.
    total, number, size = 0.0, 0, 0
    flat = np.concatenate([store.ids for store in whole.inputs.eval.sources[0].stream.stores]).astype(np.int32)
    counts, at = counted(flat, whole.inputs.tokenizer, 256, "sent"), 0
    for i in range(whole.inputs.eval.count):
        ids = whole.inputs.eval.batch(i).ids
        logits = np.asarray(whole.gpt(ids), np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        for row in logits:
            for place in row[: len(flat) - at]:
                if counts[at]:
                    total, number = total - place[flat[at]], number + 1
                at += 1
    size = sum(counts)  # a byte each
    assert evaluation.tokens == number == size and at == len(flat)
    assert evaluation.loss == pytest.approx(total / number, abs=1e-5)
    assert evaluation.bits_per_byte == pytest.approx(evaluation.loss / np.log(2))
