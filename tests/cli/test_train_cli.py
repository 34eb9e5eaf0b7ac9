"""`tfgpt train` and main.py: evaluation only, places that are not there, batches that cannot be shared out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.training import small
from tests.training.conftest import data  # noqa: F401
from tfgpt.cli import main
from tfgpt.errors import Failure, UserError
from tfgpt.training import distribution

KEYS = {"max_steps": 4, "train_steps": 4, "save_steps": 2}


@pytest.fixture
def model(data, tmp_path, monkeypatch):  # noqa: F811
    """Writes the small model's JSON into the present folder."""
    monkeypatch.chdir(tmp_path)
    settings = {**small.KEYS, **KEYS, "data_path": str(data), "model_path": "run"}
    (tmp_path / "model.json").write_text(json.dumps(settings))
    return tmp_path / "run"


def test_train_and_evaluate_only(model, capsys):
    words = ["train", "--model", "model.json"]
    assert main([*words, "--eval_only"]) == 2 and "no checkpoint to evaluate" in capsys.readouterr().err
    assert main(words) == 0
    assert small.last(model).step == 4
    told, before = capsys.readouterr().out, {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    assert main([*words, "--eval_only"]) == 0
    said = capsys.readouterr().out
    assert said.strip() and said.split("validation loss ")[1].split()[0] in told.split("validation loss ")[1]
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before, "nothing is written"
    assert main(words) == 0 and "complete: step 4 of 4" in capsys.readouterr().out
    assert main([*words, "--set", "n_layer=2"]) == 2
    error = capsys.readouterr().err
    assert "n_layer: 1 -> 2" in error and "Traceback" not in error


def test_main_py_runs_from_anywhere(model, data, tmp_path):  # noqa: F811
    words = [
        sys.executable,
        str(ROOT / "main.py"),
        "--model",
        "model.json",
        "--set",
        "max_steps=2",
        "--set",
        "warmup_steps=0",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert "validation loss" in done.stdout and small.last(model).step == 2


@pytest.mark.parametrize(
    "words, said",
    [
        (["--workers", "here,there:1"], '"here" is not HOST:PORT'),
        (["--workers", "here:1,there:2", "--worker", "2"], "no worker 2 among 2"),
        (["--tpu", "my-tpu"], "reads and writes buckets only, but model_path is run"),
        (["--set", "train_batch_size=6", "--set", "accumulate=4"], "accumulate"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(model, capsys, words, said):
    assert main(["train", "--model", "model.json", *words]) == 2
    assert said in capsys.readouterr().err and not model.exists()


def test_no_tpu_answers(monkeypatch):
    """The name service knows nothing; or there is an address, and silence behind it: said within seconds."""
    config = small.config(data_path="gs://bucket/data", model_path="gs://bucket/run", input="tfrecords")
    with pytest.raises(Failure, match='no TPU answers to the name "local"'):
        distribution.place(small.config(), tpu="local")
    import socket

    monkeypatch.setattr(distribution, "TPU_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        port = silent.getsockname()[1]
        silent.close()
        with pytest.raises(Failure, match=f'"grpc://127.0.0.1:{port}"') as error:
            distribution.place(config, tpu=f"grpc://127.0.0.1:{port}")
    assert error.value.exit_code == 1 and "\n" not in error.value.what
    assert socket.getdefaulttimeout() is None


def test_a_batch_that_replicas_cannot_share(monkeypatch):
    class Two:
        num_replicas_in_sync = 2

    where = small.place(Two())
    with pytest.raises(UserError, match="9 windows") as error:
        distribution.check_batches(small.config(train_batch_size=9), where)
    assert error.value.nearest == "8" and "train_batch_size=8" in error.value.fix
    distribution.check_batches(small.config(train_batch_size=8, accumulate=2), where)


@pytest.mark.parametrize("batch, replicas, processes", [(8, 4, 2), (5, 2, 2), (1, 4, 4), (7, 6, 3)])
def test_rows_of_all_processes_are_the_batch(batch, replicas, processes):
    class Some:
        num_replicas_in_sync = replicas

    rows = []
    for process in range(processes):
        where = distribution.Place(Some(), "CPU", "", False, "float32", "", process, processes)
        mine = list(range(batch))[where.rows(batch)]
        assert len(mine) <= -(-batch // replicas) * (replicas // processes)
        rows += mine
    assert rows == list(range(batch))


def test_one_device_has_no_strategy_to_pay_for():
    found = distribution.place(small.config())
    assert found.strategy is tf.distribute.get_strategy() or found.replicas > 1
    assert found.chief and distribution.agree(found, 3.0) == 3.0
