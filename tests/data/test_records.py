"""Records against TensorFlow's own writer, reader and parser."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.data import records

tf = pytest.importorskip("tensorflow")


def parse(data: bytes) -> tuple[list[int], bytes]:
    spec = {"text": tf.io.VarLenFeature(tf.int64), "hash": tf.io.FixedLenFeature([1], tf.string)}
    example = tf.io.parse_single_example(data, spec)
    return example["text"].values.numpy().tolist(), example["hash"].numpy()[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**28 - 1), max_size=60), min_size=1, max_size=6))
def test_tensorflow_parses_what_we_write(documents):
    flat = np.array([i for d in documents for i in d], np.uint32)
    hashes = [bytes([n]) * 16 for n in range(len(documents))]
    framed = records.encode_documents(flat, [len(d) for d in documents], hashes)
    stream = io.BytesIO(b"".join(framed))
    read = [(parse(data)) for _, data in records.read_frames(stream)]
    assert read == list(zip(documents, hashes, strict=True))


def test_tensorflow_reads_our_file_and_we_read_its(tmp_path):
    ours, theirs = tmp_path / "ours.tfrecords", tmp_path / "theirs.tfrecords"
    documents = [np.arange(1, 50257, 97), np.array([0, 127, 128, 16383, 16384, 50256])]
    flat = np.concatenate(documents).astype(np.uint32)
    framed = records.encode_documents(flat, [len(d) for d in documents], [b"a" * 16, b"b" * 16])
    ours.write_bytes(b"".join(framed))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for ids, digest in zip(documents, (b"a" * 16, b"b" * 16), strict=True):
            text = tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
            mark = tf.train.Feature(bytes_list=tf.train.BytesList(value=[digest]))
            features = tf.train.Features(feature={"text": text, "hash": mark})
            writer.write(tf.train.Example(features=features).SerializeToString())
    through_tf = [parse(raw.numpy()) for raw in tf.data.TFRecordDataset(str(ours))]
    assert [ids for ids, _ in through_tf] == [d.tolist() for d in documents]
    with open(theirs, "rb") as stream:
        read = list(records.read_documents(stream))
    assert [d.ids.tolist() for d in read] == [d.tolist() for d in documents]
    assert [d.hash for d in read] == [b"a" * 16, b"b" * 16]


def test_files_without_hash_and_with_negative_ids_are_read(tmp_path):
    path = tmp_path / "old.tfrecords"
    with tf.io.TFRecordWriter(str(path)) as writer:
        text = tf.train.Feature(int64_list=tf.train.Int64List(value=[5, -1, 2**40]))
        writer.write(tf.train.Example(features=tf.train.Features(feature={"text": text})).SerializeToString())
    with open(path, "rb") as stream:
        (document,) = records.read_documents(stream)
    assert document.ids.tolist() == [5, -1, 2**40] and document.hash == b""


@pytest.mark.parametrize("at", ["length", "data", "crc"])
def test_one_flipped_bit_is_named_by_offset(at):
    framed = records.encode_documents(np.arange(40, dtype=np.uint32), [20, 20], [b"x" * 16] * 2)
    second = len(framed[0])
    position = second + {"length": 1, "data": 30, "crc": len(framed[1]) - 1}[at]
    damaged = bytearray(b"".join(framed))
    damaged[position] ^= 4
    reader = records.read_frames(io.BytesIO(bytes(damaged)))
    next(reader)
    with pytest.raises(records.DamagedRecord) as caught:
        next(reader)
    assert caught.value.offset == second


@pytest.mark.parametrize("cut", [1, 5, 13, 40])
def test_truncation_is_named_by_offset(cut):
    framed = records.encode_documents(np.arange(40, dtype=np.uint32), [20, 20], [b"x" * 16] * 2)
    whole = b"".join(framed)
    with pytest.raises(records.DamagedRecord) as caught:
        list(records.read_frames(io.BytesIO(whole[: len(framed[0]) + cut])))
    assert caught.value.offset == len(framed[0])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_never_crash_the_parser(data):
    stream = io.BytesIO(records.frame(data))
    try:
        for document in records.read_documents(stream):
            assert document.ids.dtype == np.int64
    except records.DamagedRecord as damage:
        assert damage.offset == 0
