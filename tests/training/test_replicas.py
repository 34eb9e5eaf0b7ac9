"""Two replicas in one process, and two processes, make the same updates as one replica."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.training import small
from tests.training.two_replicas import OPTIMIZERS


def one_replica(**keys):
    return small.updates(small.config(**keys), small.place(tf.distribute.get_strategy()))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two_replicas.py found."""
    output = tmp_path_factory.mktemp("two") / "found.npz"
    words = [sys.executable, str(ROOT / "tests/training/two_replicas.py"), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(output) as found:
        return dict(found)


def part(two, name):
    return {key.removeprefix(f"{name}: "): value for key, value in two.items() if key.startswith(f"{name}: ")}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_replicas_make_the_updates_of_one(two, name):
    """keras_20582: accumulation under MirroredStrategy; tensorflow_33929: the clip comes after the replicas' sum."""
    one = one_replica(**OPTIMIZERS[name])
    assert (one["norms"] > small.KEYS["clip"]).all(), "the clip is at work"
    small.same(one, part(two, name))


def test_loss_on_one_side_is_a_mean_over_the_counted_tokens_of_all_replicas(two):
    """And of all micro-batches: parts of a batch have very different numbers of tokens that count, and some none."""
    data = small.chats()
    one = small.updates(small.config(), small.place(tf.distribute.get_strategy()), data=data)
    small.same(one, part(two, "one side"))
    counted = (data[1] >= 0).reshape(4, 4, -1).sum(-1)
    assert one["tokens"].tolist() == counted.sum(1).tolist() and counted[[0, 1, 3]].std() > 4


def test_xla_on_two_replicas_changes_nothing(two):
    small.same(part(two, "adam"), part(two, "xla"))


def test_keras_adafactor_memory_is_factored(two):
    """Keras's keeps a full velocity beside the factors; here a matrix [R, C] with no momentum has R + C numbers."""
    from tfgpt import optimizers

    slots = optimizers.build(small.config(opt_name="adafactor")).slots("h.0.mlp.c_fc.weight", (768, 3072))
    assert sum(4 * int(np.prod(shape)) for shape in slots.values()) == 4 * (768 + 3072) < 20_000


def test_keras_dropout_mask_is_another_one_on_each_replica(two):
    """The same rows lose the same on both replicas under one key, and differ under the keys they have in training."""
    same, own = two["masks: same"], two["masks: own"]
    assert same[0] == same[1] == own[0] and abs(own[1] - own[0]) > 1e-3


def test_replicas_hold_the_same_bits(two):
    assert two["copies"]


def test_an_evaluation_batch_that_cannot_be_halved(two):
    step = small.step_of(small.config(), small.place(tf.distribute.get_strategy()))
    step.train(*small.batches(), None, first=0)
    total, count = step.evaluate(small.Odd(), 0)
    assert two["odd evaluation"][1] == count == (small.Odd().batch(0, slice(None))[1] >= 0).sum()
    assert two["odd evaluation"][0] == pytest.approx(total, rel=1e-5)


def test_nan_on_one_replica_changes_nothing_on_either(two):
    found = part(two, "poison")
    assert found["applied"].tolist() == [True, False, True] and np.isnan(found["losses"]).tolist() == [0, 1, 0]
    assert found["unchanged"] and found["finite"]


def test_keras_loss_scale_looks_at_every_replica(two):
    """Inf on replica 1 alone: neither replica moves, both halve the scale, and both go on."""
    found = part(two, "scale")
    assert found["applied"].tolist() == [True, False, True]
    first = 2.0**15 / 64  # 64 tokens on each replica
    assert found["scales"].tolist() == [[first] * 2, [first] * 2, [first / 2] * 2, [first / 2] * 2]
    start, first, second, third = found["weights"]
    assert (first == second).all() and (start != first).any() and (second != third).any()
    assert (third[0] == third[1]).all() and np.isfinite(third).all()


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


def test_two_processes_make_the_run_of_one(start, tmp_path):
    """The command on two "machines", an odd evaluation batch included; one of them writes."""
    workers = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    keys = {"max_steps": 12, "train_steps": 6, "eval_batch_size": 5}
    pair = [start("pair", words=["--workers", workers, "--worker", i], **keys) for i in range(2)]
    assert [one.wait() for one in pair] == [0, 0], [one.err for one in pair]
    alone = start("alone", **keys)
    assert alone.wait() == 0, alone.err
    one, two = small.losses(tmp_path / "alone"), small.losses(tmp_path / "pair")
    assert list(one) == list(two) == list(range(1, 13))
    np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-5, rtol=0)
    one, two = small.evals(tmp_path / "alone"), small.evals(tmp_path / "pair")
    assert list(one) == list(two) == [6, 12]
    np.testing.assert_allclose(list(two.values()), list(one.values()), atol=1e-5, rtol=0)
    assert "2 replicas (CPU) in 2 processes" in small.events(tmp_path / "pair", "start")[0]["device"]
    assert pair[1].out == "", "the second process prints nothing"
    ends = [small.last(tmp_path / name) for name in ("alone", "pair")]
    assert ends[0].step == ends[1].step == 12
