"""Where measurements go: kills, full disks, absent packages and buckets harm neither the run nor the lines before."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tfgpt import files, report
from tfgpt.training.metrics import Metrics, plain


def lines(run) -> list[dict]:
    """Every line must be JSON in the strict sense, which has no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = (Path(run) / "metrics.jsonl").read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def python(code: str, *words, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_numbers_of_every_kind_become_json_and_float32_comes_back_bit_by_bit(tmp_path):
    rng = np.random.default_rng(0)
    losses = rng.normal(size=1000).astype(np.float32)
    losses[:3] = np.nan, np.inf, -np.inf
    with Metrics(str(tmp_path), tensorboard=False) as metrics:
        metrics.write(
            "train", np.int64(7), losses=losses, lr=np.float64(0.1), half=np.float16(0.1), flag=np.bool_(True), path=Path("a"),
            seconds={"step": np.float32(0.3), 3: (1, None)}, text="\ud800 half a pair", names={"x"}, big=10**30,
        )  # fmt: skip
    (line,) = lines(tmp_path)
    assert line["losses"][:3] == ["NaN", "Infinity", "-Infinity"]
    assert np.array(line["losses"][3:], np.float32).tobytes() == losses[3:].tobytes()
    assert (
        line["step"] == 7
        and line["seconds"] == {"step": 0.3, "3": [1, None]}
        and line["half"] == pytest.approx(0.1, 1e-3)
    )
    assert line["lr"] == 0.1 and line["flag"] is True and line["path"] == "a" and line["text"] == "? half a pair"
    assert report.read(str(tmp_path)).loss.steps.size == 1
    tensor = type("Tensor", (), {"numpy": lambda self: np.float32(2.5)})()
    assert plain([tensor, float("nan"), object]) == [2.5, "NaN", str(object)]


WRITER = """
import sys
from tfgpt.training.metrics import Metrics
metrics = Metrics(sys.argv[1], tensorboard=False)
first = int(sys.argv[2])
metrics.write("start" if first == 0 else "resume", first)
for step in range(first + 1, 10**9):
    metrics.write("train", step, losses=[float(step)], loss=float(step), filler="x" * 2000)
    print(step, flush=True)
"""


def test_what_was_written_survives_kill_9_and_half_lines_are_ended(tmp_path):
    began = 0
    for round in range(4):
        process = python(WRITER, tmp_path, began)
        for _ in range(30):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        history = report.read(str(tmp_path))
        assert history.step >= last, "a line is with the operating system when write returns"
        if round % 2:
            with open(tmp_path / "metrics.jsonl", "ab") as stream:
                stream.write(b'{"event":"train","step":99999,"lo')
        began = max(1, last - 10)
    history = report.read(str(tmp_path))
    assert history.loss.steps.tolist() == history.loss.values.tolist() == list(range(1, history.step + 1))
    assert history.broken == 2 and len(history.sessions) == 4


FULL = """
import resource, sys
from tfgpt.training.metrics import Metrics
said = []
metrics = Metrics(sys.argv[1], tensorboard=sys.argv[2] == "board", echo=said.append)
metrics.write("start", 0)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))   # the disk is full after 1000 bytes of each file
for step in range(1, 60):
    metrics.write("train", step, loss=1.0 * step, losses=[1.0 * step], perplexity=2.0, lr=3.0, grad_norm=4.0)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
for step in range(60, 71):
    metrics.write("train", step, loss=1.0 * step, losses=[1.0 * step])
metrics.close()
print(said)
"""


@pytest.mark.parametrize("board", ["none", "board"])
def test_a_full_disk_is_said_once_and_nothing_is_lost_when_there_is_room_again(tmp_path, board):
    out, error = python(FULL, tmp_path, board, TF_CPP_MIN_LOG_LEVEL="3").communicate(timeout=120)
    said = out.strip().splitlines()[-1]
    assert said.count("metrics.jsonl: File too large") == 1 and said.count("metrics.jsonl: works again") == 1, error
    assert [line["step"] for line in lines(tmp_path)] == list(range(71))
    if board == "board":
        assert said.count("TensorBoard: File too large") == 1 and said.count("TensorBoard: works again") == 1
        steps = [event.step for event in events(tmp_path) if event.HasField("summary")]
        assert steps == sorted(steps) and steps[0] == 1 and steps[-11:] == list(range(60, 71))


def events(run) -> list:
    """All events as TensorFlow itself reads them, file by file."""
    import tensorflow as tf

    found = []
    for path in sorted((Path(run) / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append(tf.compat.v1.Event.FromString(record))
    return found


def test_tensorboard_gets_its_scalars_and_is_told_what_is_void(tmp_path):
    with Metrics(str(tmp_path)) as metrics:
        metrics.write("start", 0, config={"lr": 1})
        metrics.write(
            "train", 10, loss=3.25, perplexity=25.75, lr=1e-3, grad_norm="NaN", tokens_per_second=None, tokens=5
        )
        metrics.write("eval", 10, loss=3.5, perplexity=float("inf"), bits_per_byte=1.25)
        metrics.write("rollback", 10, to=5, why="a jump")
    time.sleep(0.01)
    with Metrics(str(tmp_path), resumed_at=5) as metrics:
        metrics.write("train", 10, loss=3.0)
    found = events(tmp_path)
    assert [e.file_version for e in found if e.file_version] == ["brain.Event:2"] * 2
    assert [(e.step, e.session_log.status) for e in found if e.HasField("session_log")] == [(6, 1), (6, 1)]
    points = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert points[:3] == [(10, "train/loss", 3.25), (10, "train/perplexity", 25.75), (10, "train/lr", np.float32(1e-3))]
    assert points[3][1] == "train/grad_norm" and np.isnan(points[3][2])
    assert points[4:] == [
        (10, "eval/loss", 3.5), (10, "eval/perplexity", np.inf), (10, "eval/bits_per_byte", 1.25), (10, "train/loss", 3.0),
    ]  # fmt: skip
    assert all(abs(e.wall_time - time.time()) < 60 for e in found)


def test_sinks_that_cannot_be_opened_are_named_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    said = []
    with Metrics(str(tmp_path), wandb="project", echo=said.append) as metrics:
        for step in range(5):
            metrics.write("train", step + 1, loss=1.0)
    assert len(lines(tmp_path)) == 5 and len(said) == 2
    assert said[0].startswith("TensorBoard: ") and 'pip install "tfgpt[wandb]"' in said[1]


def test_a_folder_that_is_taken_away_comes_back_into_use(tmp_path):
    said, run = [], tmp_path / "run"
    with Metrics(str(run), tensorboard=False, echo=said.append) as metrics:
        run.rename(tmp_path / "moved")
        metrics.write("train", 1, loss=1.0)
        (tmp_path / "moved").rename(run)
        metrics.write("train", 2, loss=1.0)
    assert [line["step"] for line in lines(run)] == [1, 2] and len(said) == 2


def test_a_run_in_a_bucket_is_sent_now_and_then_and_goes_on_elsewhere(bucket, tmp_path, monkeypatch):
    run = f"{bucket}/models/mine"

    def there() -> list[int]:
        return [json.loads(line)["step"] for line in files.read_bytes(f"{run}/metrics.jsonl").splitlines()]

    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "one"))
    metrics = Metrics(run)
    metrics.write("train", 1, loss=1.0)
    assert not files.exists(f"{run}/metrics.jsonl")
    metrics.flush()
    assert there() == [1] and files.is_folder(f"{run}/tensorboard")
    metrics._next_upload = time.monotonic()  # half a minute later
    metrics.write("train", 2, loss=1.0)
    assert there() == [1, 2]
    metrics.write("train", 3, loss=1.0)
    assert there() == [1, 2], "the half minute is not over"
    # The same machine, after a kill, still knows line 3; another one begins with what the bucket has.
    with Metrics(run, tensorboard=False) as again:
        again.write("train", 4, loss=1.0)
    assert there() == [1, 2, 3, 4]
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "two"))
    with Metrics(run, tensorboard=False) as other:
        other.write("train", 5, loss=1.0)
    assert there() == [1, 2, 3, 4, 5]
    # The first machine's copy is older by now, and must not win.
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "one"))
    Metrics(run, tensorboard=False).close()
    assert there() == [1, 2, 3, 4, 5]


def test_a_bucket_that_fails_is_no_harm(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path))
    said = []
    metrics = Metrics(f"{bucket}/run", tensorboard=False, echo=said.append)
    metrics.write("train", 1, loss=1.0)
    monkeypatch.setattr(files, "copy_in", lambda *_: (_ for _ in ()).throw(OSError(5, "the network is down")))
    metrics.flush()
    metrics.close()
    assert said == ["sending metrics to the bucket: the network is down; training goes on"]


WANDB = """
import sys
from tfgpt.training.metrics import Metrics
with Metrics(sys.argv[1], tensorboard=False, wandb="entity/project") as metrics:
    metrics.write("start", 0, config={"n_embd": 64})
    metrics.write("train", 10, loss=3.25, lr=1e-3)
    metrics.write("eval", 10, loss=3.5)
    metrics.write("stop", 10, why="done")
"""


def wandb_records(data: bytes) -> list[bytes]:
    """Records of a .wandb file: LevelDB's log after a head of 7 bytes, in blocks of 32 KiB."""
    found, at = [], 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece = data[at + 7 : at + 7 + size]
        if kind in (1, 2):  # whole, or first part
            found.append(b"")
        found[-1] += piece
        at += 7 + size
    return found


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
def test_weights_and_biases_offline(tmp_path):
    from wandb.proto import wandb_internal_pb2

    environment = {"WANDB_MODE": "offline", "HOME": str(tmp_path / "home"), "WANDB_SILENT": "true"}
    out, error = python(WANDB, tmp_path / "mine", **environment).communicate(timeout=120)
    assert "Weights & Biases" not in error, error
    (path,) = (tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb")
    rows, facts = [], None
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            rows.append({k: v for k, v in row.items() if not k.startswith("_")})
        if record.HasField("run"):
            facts = record.run
    assert rows == [{"step": 10, "train/loss": 3.25, "train/lr": 1e-3}, {"step": 10, "eval/loss": 3.5}]
    assert (facts.project, facts.entity, facts.display_name) == ("project", "entity", "mine")
    assert {u.key or ".".join(u.nested_key): json.loads(u.value_json) for u in facts.config.update}["n_embd"] == 64
