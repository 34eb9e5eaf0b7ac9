"""`tfgpt bench input`: what both sides read, that they read the same, and the command as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt.benchmarks import everything, input_ours, input_work
from tfgpt.benchmarks.input_work import EOT, MODES, Work, write_records
from tfgpt.data import records
from tfgpt.data.inputs import open_inputs

N_CTX = 16


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(input_work, "USUAL_LENGTH", 20)
    write_records(tmp_path, 4000, N_CTX)
    return Work(folder=str(tmp_path), n_ctx=N_CTX, batch_size=3, seconds=0.01)


def documents(work, kind):
    found = []
    for path in work.paths(kind):
        with open(path, "rb") as stream:
            found.append([document.ids for document in records.read_documents(stream)])
    return found


def test_both_files_hold_the_same_ids(work):
    texts, chunks = documents(work, "text"), documents(work, "chunk")
    assert len(texts) == len(chunks) == 4
    for text, chunk in zip(texts, chunks, strict=True):
        joined = np.concatenate(text)
        assert len(joined) == 1000 and len(text) > 5 and joined.max() < EOT
        np.testing.assert_array_equal(np.concatenate(chunk), joined[: 1000 // 17 * 17])
        assert {len(ids) for ids in chunk} == {N_CTX + 1}


def test_theirs_and_ours_are_windows_of_the_same_text(work):
    """Packed windows are pieces of documents with end-of-text between them, chunks are records; labels follow ids."""
    from tfgpt.benchmarks import input_tfdata

    texts = [np.append(ids, EOT).astype(np.int32).tobytes() for shard in documents(work, "text") for ids in shard]
    whole = {ids.astype(np.int32).tobytes() for shard in documents(work, "chunk") for ids in shard}
    for kind in ("packed", "chunk"):
        ours = open_inputs(input_ours._config(work, MODES[kind])).train.batch(5)
        made = {"packed": input_tfdata.packed, "chunk": input_tfdata.chunks}[kind](work)
        theirs = next(input_tfdata._batched(made, work).as_numpy_iterator())
        for ids, labels in ((ours.ids, ours.labels), theirs):
            assert ids.shape == labels.shape == (3, N_CTX)
            for row, targets in zip(ids, labels, strict=True):
                window = np.append(row, targets[-1:]).astype(np.int32)
                np.testing.assert_array_equal(window[1:], targets)
                if kind == "chunk":
                    assert window.tobytes() in whole
                else:
                    for piece in np.split(window, np.flatnonzero(window == EOT) + 1):
                        assert any(piece.tobytes() in text for text in texts)


def test_time_counts_without_the_first_batch(work, monkeypatch):
    clock = iter([0.0, 0.004, 0.008, 0.012])
    monkeypatch.setattr(input_work.time, "perf_counter", lambda: next(clock))
    calls = []
    batch = np.zeros((3, N_CTX), np.int32)
    speed = work.speed(lambda: calls.append(1) or (batch, batch))
    assert len(calls) == 3 and speed == pytest.approx(2 * 3 * N_CTX / 0.012)


def test_the_command_reads_every_mode_beside_tf_data(capfd):
    """As a part of `bench all`: what it prints but the last line is shown, and the last line is its result."""
    words = "--tokens 3000 --n_ctx 16 --batch_size 2 --seconds 0.02 --repeats 1".split()
    code, found = everything.one(["input", *words])
    assert code == 0 and list(found["results"]) == list(MODES) and found["target"] == 3_000_000
    for row in found["results"].values():
        assert row["x_tf_data"] == pytest.approx(row["tokens_per_s"] / row["tf_data"], abs=0.01)
    slowest = min(row["tokens_per_s"] for row in found["results"].values())
    assert found["met"] == (slowest >= 3_000_000)
    said = capfd.readouterr().out
    assert "random_sample" in said and '"bench"' not in said
