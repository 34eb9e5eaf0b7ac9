"""Input functions of the user's own: what they may give, how they are resumed, and what is said when they give nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfgpt.cli import main
from tfgpt.config import Config
from tfgpt.data.inputs import open_inputs
from tfgpt.errors import UserError

MODULE = """
import numpy as np

calls = []

def rows(n_ctx, first, last):
    for n in range(first, last):
        x = (np.arange(n_ctx) + 31 * n) % 250
        yield x, (x + 1) % 250

def single(params, eval=False):
    calls.append(eval)
    return rows(params["n_ctx"], 0, 23)

def grouped(params, eval=False):
    found = list(rows(params["n_ctx"], 0, 23))
    for first in (0, 7, 14, 21):
        group = found[first : first + 7]
        yield {"ids": np.stack([x for x, _ in group]), "labels": np.stack([y for _, y in group])}

def seeking(params, eval=False, position=0):
    calls.append(position)
    size = params["batch_size"]
    return rows(params["n_ctx"], position * size, 10**9)

def dataset(params, eval=False):
    import tensorflow as tf
    found = list(rows(params["n_ctx"], 0, 23))
    x, y = (np.stack(column) for column in zip(*found))
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(params["batch_size"], drop_remainder=True)

def ending(params, eval=False, position=0): return rows(params["n_ctx"], 5 * position, 12)

def nothing(params, eval=False): return None if eval else []
def failing(params, eval=False): return 1 / 0
def endless(params, eval=False): return rows(params["n_ctx"], 0, 10**9)
def too_long(params, eval=False): yield np.zeros(9, int), np.zeros(9, int)
def alone(params, eval=False): yield np.zeros(8, int)
def unequal(params, eval=False): yield np.zeros((2, 8), int), np.zeros((1, 8), int)
def fractions(params, eval=False): yield np.zeros(8), np.zeros(8, int)
def outside(params, eval=False): yield np.full(8, 257), np.zeros(8, int)
def negative(params, eval=False): yield np.full(8, -1), np.zeros(8, int)
def below(params, eval=False): yield np.zeros(8, int), np.full(8, -2)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    import sys

    (tmp_path / "my_own_input.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_own_input", raising=False)


def opened(name, **values):
    shape = {
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 1,
        "n_ctx": 8,
        "train_batch_size": 5,
        "tokenizer": "byte",
        "eval_steps": 2,
    }
    return open_inputs(Config(input=f"my_own_input:{name}", **{**shape, **values}))


def expected(position, size=5, period=23):
    rows = [n % period if period else n for n in range(position * size, position * size + size)]
    return np.array([(np.arange(8) + 31 * n) % 250 for n in rows])


@pytest.mark.parametrize("name", ["single", "grouped"])
def test_examples_in_any_grouping_become_the_same_batches_and_begin_again_at_their_end(name):
    inputs = opened(name)
    for position in (0, 1, 2, 5, 6, 4, 30, 29):
        batch = inputs.train.batch(position)
        assert np.array_equal(batch.ids, expected(position)) and batch.ids.dtype == np.int32
        assert np.array_equal(batch.labels, (expected(position) + 1) % 250)
    stack = inputs.train.stack(7, 3, rows=slice(1, 3))
    assert np.array_equal(stack.ids, np.stack([expected(p)[1:3] for p in (7, 8, 9)]))
    assert inputs.train_tokens == 0 and inputs.bytes_per_token is None and "my_own_input" in inputs.identity


def test_a_function_that_knows_positions_passes_by_nothing():
    import my_own_input

    inputs = opened("seeking")
    my_own_input.calls.clear()
    for position in (0, 1, 10**7, 10**7 + 1, 3):
        assert np.array_equal(inputs.train.batch(position).ids, expected(position, period=None))
    assert my_own_input.calls == [0, 10**7, 3]


def test_one_that_seeks_and_ends_would_give_other_batches_to_a_resumed_run():
    inputs = opened("ending", eval_steps=0)
    assert np.array_equal(inputs.train.batch(1).ids, expected(1))
    for position in (2, 3):
        with pytest.raises(UserError, match=f"it ends in batch {position}"):
            inputs.train.batch(position)


def test_a_tf_dataset():
    pytest.importorskip("tensorflow")
    inputs = opened("dataset")
    assert all(np.array_equal(inputs.train.batch(p).ids, expected(p, period=20)) for p in (0, 3, 4, 5))


def test_evaluation_is_read_once_and_the_same_always():
    inputs = opened("single")
    assert inputs.eval.count == opened("grouped").eval.count == 2
    assert all(np.array_equal(inputs.eval.batch(p).ids, expected(p)) for p in (1, 0, 1))
    everything = opened("single", eval_steps="all", eval_batch_size=10).eval
    assert everything.count == 3 and (everything.batch(2).labels[3:] == -1).all()
    assert np.array_equal(everything.stack(0, 3).ids.reshape(30, 8)[:23], expected(0, size=23))
    assert opened("nothing").eval is None and "gives none" in opened("nothing").notes[0]


def test_noise_and_segments_are_made_for_functions_too():
    noisy = opened("single", noise=0.5, document_mask=True).train.batch(3)
    assert 0.2 < (noisy.ids != expected(3)).mean() < 0.8 and noisy.segments.shape == (5, 8)
    assert np.array_equal(noisy.labels, (expected(3) + 1) % 250)


@pytest.mark.parametrize(
    "name, said",
    [
        ("too_long", r"shapes \[9\] and \[9\]"),
        ("alone", "is ndarray of shape"),
        ("unequal", r"shapes \[2, 8\] and \[1, 8\]"),
        ("fractions", "ids of element 0 are float64"),
        ("outside", "ids of element 0 hold 257, but the vocabulary is 0 to 256"),
        ("negative", "ids of element 0 hold -1"),
        ("below", "labels of element 0 hold -2"),
        ("failing", "ZeroDivisionError"),
        ("nothing", "gives no examples"),
    ],
)
def test_nonsense_is_named(name, said):
    with pytest.raises(UserError, match=said) as caught:
        opened(name).train.batch(0)
    assert name in str(caught.value)


def test_data_batch_shows_what_a_function_gives(tmp_path, capsys):
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 1, "n_ctx": 8, "train_batch_size": 5, "tokenizer": "byte"}
    (tmp_path / "x.json").write_text(json.dumps({**shape, "input": "my_own_input:single"}))
    assert main(["data", "batch", str(tmp_path / "x.json"), "--step", "1"]) == 0
    out = capsys.readouterr().out
    assert "5 rows of 8 tokens" in out and "--- row 0, 8 labels ---" in out


def test_an_evaluation_without_end_is_refused(monkeypatch):
    from tfgpt.data import functions

    monkeypatch.setattr(functions, "LARGEST_EVAL", 1000)
    with pytest.raises(UserError, match="does not end within 1,000 tokens"):
        opened("endless", eval_steps="all")
