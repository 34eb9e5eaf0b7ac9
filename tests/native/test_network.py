"""The compiled forward pass: the same bits in any company, sizes that fill no panel, and its small functions against NumPy."""

from __future__ import annotations

import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from tests.generation.test_engine import form_of, reference_of, text, weights_of
from tfgpt.native import engine as engines
from tfgpt.native.arithmetic import exponential
from tfgpt.native.cache import reach_of
from tfgpt.native.compiling import compiled
from tfgpt.native.engine import Engine
from tfgpt.native.packing import KINDS, pack, rounded
from tfgpt.native.team import Team, wait
from tfgpt.native.vectors import tallest

MIXED = ("global", "local", "sliding")


@pytest.mark.parametrize("dtype", KINDS)
def test_the_same_bits_however_many_are_worked_at_a_time(monkeypatch, dtype):
    """Slots, threads, tokens of a prompt in one go: none of them changes a number."""
    form, ids = form_of(MIXED), text()
    weights = weights_of(form)

    def all_of(*, slots=1, threads=1, rows=engines.ROWS, first=1):
        with monkeypatch.context() as patch:
            patch.setattr(engines, "cores", lambda: threads)
            patch.setattr(engines, "SHARE", 1)
            patch.setattr(engines, "ROWS", rows)
            engine = Engine(weights, form, slots=slots, dtype=dtype)
        assert engine._team.count == threads
        found = [engine.prefill(slots - 1, ids[:first])]
        for token in ids[first:]:
            others = {slot: 5 for slot in range(slots - 1) if 0 < engine.lengths[slot] < engine.n_ctx}
            found.append(engine.step(others | {slots - 1: token})[slots - 1])
            if slots > 1 and len(found) == 9:
                engine.prefill_many({slot: ids[: 3 + 7 * slot] for slot in range(slots - 1)})
        return np.array(found)

    expected = all_of()
    reference = reference_of(weights, form).logits(np.array([ids]))[0]
    np.testing.assert_allclose(expected, reference, atol={"float32": 1e-5, "bfloat16": 0.15, "int8": 0.3}[dtype])
    for how in ({"slots": 2}, {"slots": tallest() + 3}, {"threads": 2}, {"threads": 5, "slots": 4}):
        np.testing.assert_array_equal(all_of(**how), expected)
    for how in (
        {"first": 7},
        {"first": 26},
        {"first": 40},
        {"first": 40, "rows": 1},
        {"first": 33, "rows": 5, "threads": 3},
    ):
        np.testing.assert_array_equal(all_of(**how), expected[how["first"] - 1 :])


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_embd": 30, "n_head": 3, "n_vocab": 33},  # heads of ten numbers
        {"n_embd": 80, "n_head": 2, "n_vocab": 31},  # of forty: a panel and a part of one
        {"n_embd": 7, "n_head": 1, "n_vocab": 1},
        {"n_embd": 1, "n_head": 1, "n_vocab": 257},
        {"n_embd": 900, "n_head": 10, "n_vocab": 65},  # matrices deeper than what is worked in one go
    ],
)
def test_sizes_that_fill_no_panel(sizes):
    form = form_of(MIXED, **sizes)
    weights = weights_of(form)
    weights = {name: value * 0.3 if value.ndim == 2 else value for name, value in weights.items()}
    ids = np.random.default_rng(0).integers(0, form.n_vocab, 40).tolist()
    expected = reference_of(weights, form).logits(np.array([ids]))[0]
    engine = Engine(weights, form, slots=2, dtype="float32")
    scale = np.abs(expected).max() + 1
    np.testing.assert_allclose(engine.prefill(1, ids[:21]) / scale, expected[20] / scale, atol=1e-5)
    for place in range(21, 40):
        np.testing.assert_allclose(engine.step({1: ids[place]})[1] / scale, expected[place] / scale, atol=1e-5)


def test_spans_longer_than_the_context_and_of_one_token():
    for block in (1, 64, 100):
        form = form_of(("local", "local"), block=block)
        weights, ids = weights_of(form), text()
        expected = reference_of(weights, form).logits(np.array([ids]))[0]
        engine = Engine(weights, form, dtype="float32")
        np.testing.assert_allclose(engine.prefill(0, ids[:30]), expected[29], atol=1e-5)
        np.testing.assert_allclose(engine.step({0: ids[30]})[0], expected[30], atol=1e-5)


def test_what_another_text_left_behind_does_no_harm():
    """Not even where it is no number: a ring holds what nobody sees any more."""
    form = form_of(MIXED)
    weights, ids = weights_of(form), text()
    fresh, used = (Engine(weights, form, dtype="float32") for _ in range(2))
    for part in used._cache:
        part.fill(np.nan)
    for engine in (fresh, used):
        engine.prefill(0, ids[:11])
    for token in ids[11:]:
        np.testing.assert_array_equal(used.step({0: token})[0], fresh.step({0: token})[0])


@compiled(inner=False)
def _each(x):
    found = np.zeros_like(x)
    for i in range(len(x)):
        found[i] = exponential(x[i])
    return found


def test_exponential():
    x = np.concatenate([np.linspace(-87, 88, 20001), np.linspace(-1, 1, 20001), [0.0]]).astype(np.float32)
    found = _each(x).astype(np.float64)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=3e-7)
    low, one, high = _each(np.array([-1e30, 0, 1e30], np.float32))
    assert 0 <= low < 2e-38 and one == 1 and math.isfinite(high)


def test_bfloat16_is_rounded_as_others_round_it():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x80000000, 0x7F800000, 0xFF800000], np.uint32)
    data = np.concatenate([bits, edges]).view(np.float32)
    expected = data.astype(ml_dtypes.bfloat16).view(np.uint16)
    numbers = ~np.isnan(data)
    np.testing.assert_array_equal(rounded(data)[numbers], expected[numbers])
    assert np.isnan(rounded(data)[~numbers].view(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_packed_matrices_hold_what_they_were_given():
    form = form_of(("global",), n_vocab=70)
    weights = weights_of(form)
    model = pack(weights, form, "int8", reach_of(form, slots=1))
    table = model.head.matrix[0].transpose(0, 2, 1).reshape(-1, form.n_embd)
    assert table.shape == (96, 32) and not table[70:].any() and not model.head.bias.any()
    rows = weights["wte.weight"][:70]
    step = np.abs(rows).max(1, keepdims=True) / 127
    np.testing.assert_array_equal(table[:70], np.rint(rows / step.astype(np.float32)))
    np.testing.assert_allclose(model.head.scale[0, :70], step[:, 0], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_team_waits_for_all_of_its_threads(count):
    from numba import njit

    @njit(nogil=True)
    def work(me, count, meeting, done, wrong):
        for number in range(200):
            if number % count == me:
                for _ in range(1000 * (me + 1)):
                    done[me] += 1
                done[me] = number
            wait(count, meeting)
            if done[number % count] != number:
                wrong[me] += 1
            wait(count, meeting)

    done, wrong = np.zeros(count, np.int64), np.zeros(count, np.int64)
    team = Team(count)
    for _ in range(3):
        team.run(work, done, wrong)
    assert not wrong.any() and set(done) == set(range(200 - count, 200))


def test_a_team_ends_when_one_of_it_does_not_begin():
    """As when a signal comes between two threads: the others wait for nobody, and the next work is done by all."""
    from numba import njit

    @njit(nogil=True)
    def compiled(me, count, meeting):
        wait(count, meeting)

    def work(me, count, meeting, broken):
        if broken and me == 0:
            raise KeyboardInterrupt
        compiled(me, count, meeting)

    team = Team(3)
    team.run(work, False)
    with pytest.raises(KeyboardInterrupt):
        team.run(work, True)
    team.run(work, False)


def test_writing_needs_no_tensorflow():
    code = """
import sys
import numpy as np
from tfgpt.generation.engines import engine_class
from tfgpt.model.shape import Shape
form = Shape(n_vocab=40, n_ctx=16, n_embd=8, n_layer=1, n_head=2, attention=("global",))
weights = {name: np.ones(shape, "float32") for name, shape in form.weights.items()}
engine = engine_class()(weights, form, dtype="float32")
assert np.isfinite(engine.prefill(0, [1, 2, 3])).all()
import tfgpt.generator
assert not {"tensorflow", "keras", "torch"} & set(sys.modules)
print(type(engine).__module__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0 and done.stdout.strip() == "tfgpt.native.engine", done.stderr
