"""The token store: what TFRecords hold against plain lists, damage by place, and two processes at once."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.shards_of import EOT, documents_of, opened, write_shard
from tfgpt import files
from tfgpt.data import records, shard_reader, tokens
from tfgpt.data.shards import Shard
from tfgpt.errors import Failure


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def documents():
    return [[(7919 * n) % 90_000 for n in document] for document in documents_of([3, 200, 1, 1, 50, 128] * 20)]


@pytest.fixture
def shard(tmp_path, documents):
    return tmp_path / write_shard(tmp_path / "s.tfrecords", documents)


def lists(store) -> list[list[int]]:
    ends = store.starts.tolist()
    rows = [store.ids[a:b].tolist() for a, b in zip(ends, ends[1:], strict=False)]
    assert all(row[-1] == EOT for row in rows)
    return [row[:-1] for row in rows]


def promised(path, documents) -> dict[str, Shard]:
    data = path.read_bytes()
    count = sum(map(len, documents))
    return {str(path): Shard(path.name, len(data), len(documents), count, 0, hashlib.sha256(data).hexdigest(), "")}


@pytest.mark.parametrize("batch_bytes", [1, 300, 4 << 20])
def test_a_store_holds_the_documents(shard, documents, monkeypatch, batch_bytes):
    monkeypatch.setattr(shard_reader, "BATCH_BYTES", batch_bytes)
    (store,), notes = opened(shard)
    assert lists(store) == documents and notes == []
    assert (store.shortest, store.longest, store.ids.dtype) == (1, 200, np.uint32)
    assert store.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_small_vocabularies_take_two_bytes_a_token_and_all_widths_of_varints_are_read(tmp_path):
    edges = [0, 1, 127, 128, 129, 16383, 16384, 16385, 65535]
    (store,), _ = opened(write_shard(tmp_path / "a.tfrecords", [edges, edges[::-1]]), n_vocab=1 << 16)
    assert lists(store) == [edges, edges[::-1]] and store.ids.dtype == np.uint16
    edges += [65536, 2**21 - 1, 2**21, 2**28 - 1]
    (store,), _ = opened(write_shard(tmp_path / "b.tfrecords", [edges, edges[::-1]]), n_vocab=1 << 28)
    assert lists(store) == [edges, edges[::-1]] and store.ids.dtype == np.uint32


def test_other_writers_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "tf.tfrecords")) as writer:
        for ids in ([5, 300, 70_000], [], [8]):
            text = tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"text": text})).SerializeToString())
    (store,), _ = opened(tmp_path / "tf.tfrecords")
    assert lists(store) == [[5, 300, 70_000], [8]], "a record without tokens is no document"
    loose = b"\n\x11\n\x0f\n\x04text\x12\x07\x1a\x05\x08\x05\x08\xac\x02"  # each id with a tag of its own
    assert list(tf.train.Example.FromString(loose).features.feature["text"].int64_list.value) == [5, 300]
    (tmp_path / "loose.tfrecords").write_bytes(records.frame(loose))
    (store,), _ = opened(tmp_path / "loose.tfrecords")
    assert lists(store) == [[5, 300]]


def test_a_second_start_reads_nothing(shard, documents, monkeypatch):
    opened(shard)
    monkeypatch.setattr(shard_reader, "read", None)
    (store,), _ = opened(shard)
    assert lists(store) == documents


def test_a_file_that_changed_is_read_again_and_so_is_a_cache_that_was_cut(shard, documents, cache):
    opened(shard)
    write_shard(shard, documents[:7])
    (store,), _ = opened(shard)
    assert lists(store) == documents[:7]
    for path in cache.glob("tokens/*.ids"):
        path.write_bytes(path.read_bytes()[:-2])
    assert lists(opened(shard)[0][0]) == documents[:7]
    (other,), _ = opened(shard, eot=998)
    assert other.ids[-1] == 998, "another end-of-text is another store"


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("first_with_more", [False, True])
def test_an_id_outside_the_vocabulary_is_named(tmp_path, skip, first_with_more):
    path = tmp_path / "s.tfrecords"
    write_shard(path, [[1, 2], [3, 70_000, 70_001], [4]])
    offset = len(records.encode_documents(np.array([1, 2], np.uint32), [2], [b"x" * 16])[0])
    if first_with_more:
        opened(path, n_vocab=80_000)  # the store exists, but was made for a larger vocabulary
    with pytest.raises(Failure, match="token 1 of a document is id 70000, but the vocabulary is 0 to 69999") as caught:
        opened(path, n_vocab=70_000, skip=skip)
    assert caught.value.where == f"{path}, byte {offset}"


@pytest.mark.parametrize("value", [-1, -(2**63), 2**28, 2**40, 2**62])
def test_impossible_ids_are_named(tmp_path, value):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "s.tfrecords")) as writer:
        text = tf.train.Feature(int64_list=tf.train.Int64List(value=[5, value]))
        writer.write(tf.train.Example(features=tf.train.Features(feature={"text": text})).SerializeToString())
    with pytest.raises(Failure, match=f"token 1 of a document is id {value}, "):
        opened(tmp_path / "s.tfrecords")


def offsets(path) -> list[int]:
    with open(path, "rb") as stream:
        return [offset for offset, _ in records.read_frames(stream)]


@pytest.mark.parametrize("place", ["length", "its checksum", "data", "data's checksum"])
@pytest.mark.parametrize("record", [0, 57, 119])
def test_one_flipped_bit_stops_or_costs_one_record(shard, documents, place, record):
    begins = [*offsets(shard), shard.stat().st_size]
    at = {"length": begins[record] + 1, "its checksum": begins[record] + 9, "data": begins[record] + 30,
          "data's checksum": begins[record + 1] - 2}[place]  # fmt: skip
    promise = promised(shard, documents)
    data = bytearray(shard.read_bytes())
    data[at] ^= 16
    shard.write_bytes(bytes(data))
    with pytest.raises(Failure, match="damaged record") as caught:
        opened(shard)
    assert caught.value.where == f"{shard}, byte {begins[record]}"
    for ledger in (None, promise):
        (store,), (note,) = opened(shard, skip=True, promised=ledger)
        assert lists(store) == documents[:record] + documents[record + 1 :]
        assert store.sha256 == hashlib.sha256(data).hexdigest(), "known by what it is, not by what it should be"
        assert store.lost == 1 and "1 damaged record was passed over" in note
        (again,), notes = opened(shard, skip=True, promised=ledger)
        assert notes == [note] and lists(again) == lists(store)
    with pytest.raises(Failure, match="damaged record"):
        opened(shard)  # what was read from the damaged file is not taken for the whole
    data[at] ^= 16
    shard.write_bytes(bytes(data))
    (store,), notes = opened(shard, skip=True, promised=promise)
    assert lists(store) == documents and notes == [], "and once the file is restored, nothing is missing"


def test_zeros_over_half_of_the_file_and_a_cut_tail(shard, documents):
    begins = offsets(shard)
    promise = promised(shard, documents)
    data = bytearray(shard.read_bytes())
    data[begins[20] + 5 : begins[60] + 3] = bytes(begins[60] + 3 - begins[20] - 5)
    shard.write_bytes(bytes(data[: begins[110] + 40]))
    (store,), (note,) = opened(shard, skip=True, promised=promise)
    assert lists(store) == documents[:20] + documents[61:110]
    assert store.lost == 120 - 69 and f"{store.lost} damaged records" in note, "with a ledger, each lost record counts"
    with pytest.raises(Failure, match="its ledger says"):
        opened(shard, promised=promise)


def test_a_search_for_the_next_record_crosses_pieces(shard, documents, monkeypatch):
    begins, whole = offsets(shard), shard.read_bytes()
    for record, piece in itertools.product(range(12), (4, 5, 8, 64)):
        monkeypatch.setattr(shard_reader, "PIECE", piece)
        data = bytearray(whole[: begins[14]])
        data[begins[record]] ^= 1
        shard.write_bytes(bytes(data))
        reader = shard_reader.read(str(shard), n_vocab=1 << 17, skip=True)
        assert sum(len(counts) for _, counts in reader.batches()) == 13


def test_a_rewritten_shard_is_refused_even_if_it_is_sound_and_as_long(shard, documents):
    promise = promised(shard, documents)
    write_shard(shard, [documents[1], documents[0], *documents[2:]])
    assert shard.stat().st_size == promise[str(shard)].bytes
    for skip in (False, True):
        with pytest.raises(Failure, match="its sha256 differs"):
            opened(shard, promised=promise, skip=skip)
    write_shard(shard, documents + documents)
    for skip in (False, True):
        with pytest.raises(Failure, match="its ledger says"):
            opened(shard, promised=promise, skip=skip)


def test_an_empty_shard(tmp_path, shard, documents):
    empty = tmp_path / "empty.tfrecords"
    empty.touch()
    with pytest.raises(Failure, match="no documents"):
        opened(empty)
    stores, notes = tokens.open_shards([str(empty), str(shard)], eot=EOT, n_vocab=1 << 17, skip=True)
    assert [lists(store) for store in stores] == [documents] and "left out" in notes[0]
    with pytest.raises(Failure, match="cannot be read"):
        opened(tmp_path / "missing.tfrecords")


def test_no_room_is_said_before_the_work(shard, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(Failure, match="not enough disk space for the token store"):
        opened(shard)


READ = """
import sys, time
from tfgpt.data import shard_reader, tokens
batches = shard_reader.Reader.batches
def slowly(self):
    print("begun", flush=True)
    for batch in batches(self):
        yield batch
        time.sleep(0.02)
shard_reader.Reader.batches, shard_reader.BATCH_BYTES = slowly, 400
(store,), notes = tokens.open_shards([sys.argv[1]], eot=999, n_vocab=1 << 17)
print(len(store.ids), int(store.ids.astype("u8").sum()), flush=True)
"""


def start(shard):
    command = [sys.executable, "-c", READ, str(shard)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_build_a_store_once(shard, documents, cache):
    both = [start(shard) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    total = sum(sum(document) + EOT for document in documents)
    count = sum(len(document) + 1 for document in documents)
    assert sorted(out for out, _ in said) == [f"{count} {total}\n", f"begun\n{count} {total}\n"]
    assert sum("waiting" in err for _, err in said) == 1
    assert len(list((cache / "tokens").iterdir())) == 3, "no lock and no half file is left"


def test_a_kill_while_building_leaves_nothing_that_counts(shard, documents, cache):
    for pause in (0.0, 0.1, 0.25):
        process = start(shard)
        assert process.stdout.readline() == "begun\n"
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not list(cache.glob("tokens/*.json"))
    (store,), _ = opened(shard)
    assert lists(store) == documents
    assert len(list((cache / "tokens").iterdir())) == 3, "what the killed ones left is gone"


def test_shards_in_a_bucket(bucket, tmp_path, shard, documents):
    files.write_bytes(f"{bucket}/s.tfrecords", shard.read_bytes())
    for _ in range(2):
        (store,), _ = opened(f"{bucket}/s.tfrecords")
        assert lists(store) == documents
    data = bytearray(shard.read_bytes())
    data[offsets(shard)[5] + 20] ^= 1
    files.write_bytes(f"{bucket}/s.tfrecords", bytes(data))
    (store,), _ = opened(f"{bucket}/s.tfrecords", skip=True)
    assert lists(store) == documents[:5] + documents[6:]
