"""From a configuration to batches, through real encodes, real files and real processes."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.conftest import run, write_texts
from tests.data.shards_of import documents_of, write_shard
from tfgpt import tokenizers
from tfgpt.cli import main
from tfgpt.config import Config
from tfgpt.data import ledger
from tfgpt.data.documents import Rules
from tfgpt.data.inputs import open_inputs
from tfgpt.errors import Failure, UserError

SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_ctx": 16, "train_batch_size": 6, "eval_steps": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(texts, tmp_path):
    run(texts, tmp_path / "data", rules=Rules(eval_fraction=0.3), split="documents", shard_bytes=4000)
    return tmp_path / "data"


def settings(data=None, **values) -> Config:
    return Config(**{**SHAPE, **({"data_path": str(data)} if data else {}), **values})


def texts_of(data, split) -> list[str]:
    from tfgpt.data import records

    tokenizer, found = tokenizers.from_name("byte"), []
    for path in ledger.read(data).paths(data, split):
        with open(path, "rb") as stream:
            found += [tokenizer.decode(document.ids) for document in records.read_documents(stream)]
    return found


def test_a_data_folder_becomes_batches_of_its_text(data):
    inputs = open_inputs(settings(data, eval_steps="all"))
    known = ledger.read(data)
    assert len(known.splits["train"]) > 2, "windows cross shards"
    assert (inputs.n_vocab, inputs.eot, inputs.notes) == (257, 256, [])
    assert inputs.train_tokens == known.totals("train")["tokens"] + known.totals("train")["records"]
    held = known.totals("eval")
    assert inputs.bytes_per_token == held["text_bytes"] / (held["tokens"] + held["records"])
    made = inputs.eval.stack(0, inputs.eval.count)
    flat = made.labels[made.labels >= 0].tolist()
    expected = b"\xff".join(text.encode() for text in texts_of(data, "eval")) + b"\xff"
    assert bytes(255 if token == 256 else token for token in flat) == expected
    everything = "\n\n".join(texts_of(data, "train")).encode()
    for row in inputs.train.stack(5, 3).ids.reshape(-1, 16).tolist():
        for piece in bytes(10 if token == 256 else token for token in row).split(b"\n"):
            assert piece in everything


@pytest.mark.parametrize("mode", ["packed", "random_sample", "sample"])
def test_a_process_of_its_own_finds_the_batch_of_step_a_million_at_once(data, tmp_path, mode):
    """What a straight run would have reached is what a fresh process begins with."""
    part = {"train": f"{data}/text_*.tfrecords", "eval": f"{data}/text-eval_*.tfrecords", "mode": mode}
    values = {**SHAPE, "datasets": [part, {**part, "weight": 2.0}], "noise": 0.1, "tokenizer": "byte"}
    (tmp_path / "x.json").write_text(json.dumps(values))
    code = (
        "import sys, time, hashlib; from tfgpt import config; from tfgpt.data.inputs import open_inputs; began = time.time()\n"
        "batch = open_inputs(config.load(sys.argv[1])).train.batch(10**6); took = time.time() - began\n"
        "print(hashlib.sha256(batch.ids.tobytes() + batch.labels.tobytes()).hexdigest(), took)"
    )
    inputs = open_inputs(Config(**values))
    straight = inputs.train.stack(10**6 - 3, 5)
    mark = hashlib.sha256(straight.ids[3].tobytes() + straight.labels[3].tobytes()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.json")], capture_output=True, text=True, check=True
    )
    said, took = done.stdout.split()
    assert said == mark and float(took) < 2


def test_no_tensorflow_is_needed(data, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({**SHAPE, "data_path": str(data)}))
    code = (
        "import sys; from tfgpt import config; from tfgpt.data.inputs import open_inputs\n"
        "open_inputs(config.load(sys.argv[1])).train.batch(3); print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.json")], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_seed_makes_the_order(data):
    first, same, other = (open_inputs(settings(data, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.train.batch(3).ids, same.train.batch(3).ids)
    assert not np.array_equal(first.train.batch(3).ids, other.train.batch(3).ids)
    assert np.array_equal(first.eval.batch(3).ids, other.eval.batch(3).ids), "evaluation does not depend on it"


def test_identity_names_the_data_and_nothing_else(data, texts, tmp_path):
    inputs = open_inputs(settings(data))
    assert open_inputs(settings(data, seed=5, n_ctx=8, train_batch_size=2)).identity == inputs.identity
    data.rename(tmp_path / "moved")
    assert open_inputs(settings(tmp_path / "moved")).identity == inputs.identity
    write_texts(texts, 61, seed=3)
    run(texts, tmp_path / "other")
    assert open_inputs(settings(tmp_path / "other")).identity != inputs.identity


def test_a_mixture_of_files_without_a_ledger(tmp_path):
    paths = [write_shard(tmp_path / f"{n}.tfrecords", documents_of([20 + n] * 30, seed=n)) for n in range(3)]
    parts = [{"train": paths[0], "mode": "chunk"}, {"train": paths[1], "eval": paths[2], "mode": "random_sample"}]
    inputs = open_inputs(settings(n_ctx=19, n_vocab=50257, datasets=parts, encoder_path=str(tmp_path)))
    assert inputs.eot == 50256 and inputs.tokenizer is None and inputs.bytes_per_token is None
    assert any("no tokenizer" in note for note in inputs.notes)
    assert inputs.train.batch(0).ids.shape == (6, 19) and inputs.eval.count == 4
    write_shard(tmp_path / "0.tfrecords", documents_of([20] * 31, seed=0))
    assert (
        open_inputs(inputs_of := settings(n_ctx=19, n_vocab=50257, datasets=parts, encoder_path=str(tmp_path))).identity
        != inputs.identity
    )
    with pytest.raises(UserError, match="nobody knows which id separates"):
        open_inputs(inputs_of.model_copy(update={"tokenizer": "bpe:4096"}))


def test_a_ledger_beside_the_files_of_a_mixture_is_believed(data, tmp_path):
    part = {"train": f"{data}/text_*.tfrecords", "eval": f"{data}/text-eval_*.tfrecords"}
    inputs = open_inputs(settings(datasets=[part]))
    assert inputs.tokenizer.kind == "byte" and inputs.n_vocab == 257
    assert inputs.identity == open_inputs(settings(data)).identity and inputs.bytes_per_token
    shard = data / "text_1.tfrecords"
    shard.write_bytes(shard.read_bytes()[:-1])
    for again in (settings(datasets=[part]), settings(data)):
        with pytest.raises(Failure, match="its ledger says"):
            open_inputs(again)
    assert open_inputs(settings(data, on_corrupt="skip")).notes == [], "the whole shard is in the cache still"
    shutil.rmtree(tmp_path / "cache")
    inputs = open_inputs(settings(data, on_corrupt="skip"))
    assert any("1 damaged record was passed over" in note for note in inputs.notes)


def test_parts_of_different_tokenizers_are_refused(data, texts, tmp_path):
    run(texts, tmp_path / "chars", tokenizer="char")
    parts = [{"train": f"{folder}/text_*.tfrecords"} for folder in (data, tmp_path / "chars")]
    with pytest.raises(UserError, match="different tokenizers"):
        open_inputs(settings(datasets=parts))


def test_a_vocabulary_that_is_too_small_is_refused_before_training(data):
    with pytest.raises(UserError, match="n_vocab is 256, but the data's tokenizer has 257 ids"):
        open_inputs(settings(data), n_vocab=256)
    assert open_inputs(settings(data, n_vocab=300, tokenizer="byte")).n_vocab == 300
    assert open_inputs(settings(data), n_vocab=260).n_vocab == 260


def test_a_tokenizer_without_end_of_text_gets_one_behind_its_ids(tmp_path):
    letters = sorted(set("the quick brown fox"))
    stoi = {letter: n for n, letter in enumerate(letters)}
    (tmp_path / "in").mkdir()
    meta = {"vocab_size": len(letters), "itos": dict(enumerate(letters)), "stoi": stoi}
    (tmp_path / "in" / "meta.pkl").write_bytes(pickle.dumps(meta))
    ids = np.array([stoi[c] for c in "the quick brown fox" * 40], np.uint16)
    ids.tofile(tmp_path / "in" / "train.bin")
    run(tmp_path / "in", tmp_path / "data", tokenizer="gpt2")
    inputs = open_inputs(settings(tmp_path / "data"))
    assert (inputs.n_vocab, inputs.eot) == (len(letters) + 1, len(letters))
    assert (inputs.train.batch(0).ids <= len(letters)).all()
    with pytest.raises(UserError, match="and an end-of-text"):
        open_inputs(settings(tmp_path / "data"), n_vocab=len(letters))


def test_without_evaluation_data_eval_is_none_and_a_note_says_so(texts, tmp_path):
    run(texts, tmp_path / "data", split="none")
    inputs = open_inputs(settings(tmp_path / "data"))
    assert inputs.eval is None and "no evaluation data" in inputs.notes[0] and inputs.bytes_per_token is None


def test_the_lineages_inputs(tmp_path):
    from tfgpt.data import prepare

    for name, length in (("openwebtext-newspaper", 3), ("openwebtext-newspaper-long", 60)):
        for number in range(93):
            shift = 1000 if "long" in name else 0
            write_shard(tmp_path / f"{name}_{number}.tfrecords", [[shift + number] * length] * 4)
    biased = open_inputs(settings(tmp_path, input="openwebtext_longbiased", encoder_path=str(tmp_path), n_vocab=50257))
    ids = biased.train.stack(0, 100).ids.reshape(600, 16)
    long = (np.where(ids == 50256, 0, ids).max(axis=1) >= 1000).sum()
    assert long == 0.7 * 600
    seen = set(np.unique(ids).tolist()) - {50256}
    assert not {n for n in seen if n % 1000 in prepare.OPENWEBTEXT_EVAL} and len(seen) > 60
    held = set(np.unique(biased.eval.stack(0, biased.eval.count).ids).tolist()) - {50256}
    assert {n % 1000 for n in held} <= set(prepare.OPENWEBTEXT_EVAL)


def test_more_than_a_million_tokens_a_second(tmp_path):
    """A floor with much room below what any machine should reach; the work must not depend on a loop over tokens."""
    rng = np.random.default_rng(0)
    write_shard(
        tmp_path / "a.tfrecords", [rng.integers(0, 50256, size).tolist() for size in rng.integers(50, 1500, 800)]
    )
    parts = [
        {"train": str(tmp_path / "a.tfrecords"), "mode": mode, "stitch": 9} for mode in ("packed", "random_sample")
    ]
    for chosen in (parts[:1], parts[1:], parts):
        inputs = open_inputs(settings(n_ctx=1024, datasets=chosen, encoder_path=str(tmp_path), n_vocab=50257))
        best = 0.0
        for first in range(0, 60, 20):
            began = time.perf_counter()
            tokens = inputs.train.stack(first, 20).ids.size
            best = max(best, tokens / (time.perf_counter() - began))
        assert best > 1e6


def test_data_batch_prints_a_batch(data, tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps({**SHAPE, "n_ctx": 900, "data_path": str(data), "document_mask": True}))
    assert main(["data", "batch", str(tmp_path / "x.json"), "--step", "12", "--samples", "3"]) == 0
    out = capsys.readouterr().out
    assert "train batch 12: 6 rows of 900 tokens" in out and "epoch 1" not in out.split("---")[2]
    assert out.count("--- row") == 3 and "documents" in out
    inputs = open_inputs(settings(data, n_ctx=900))
    row = inputs.train.batch(12).ids[0]
    words = tokenizers.from_name("byte").decode(row[row != 256][:60]).split()
    assert all(word in out for word in words[1:-1])
    assert f"epoch {12 * 6 / inputs.train.sources[0].count:.3f}" in out
    assert main(["data", "batch", str(tmp_path / "x.json"), "--split", "eval", "--set", 'eval_steps="all"']) == 0
    out = capsys.readouterr().out
    last = inputs.eval.count - 1
    assert "every evaluation" in out and "<|endoftext|>" in out
    assert main(["data", "batch", str(tmp_path / "x.json"), "--split", "eval", "--step", "999"]) == 2
    assert f"--step {last}" in capsys.readouterr().err
