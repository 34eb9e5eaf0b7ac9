"""Packed windows and chunks against brute force over whole epochs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.shards_of import EOT, batches, documents_of, epoch, stored, stream
from tfgpt.data.batches import EvalBatches
from tfgpt.data.windows import Chunks, Packed, Stream
from tfgpt.errors import UserError

SHAPES = {
    "tiny documents": [[1, 2, 1, 1, 3], [1, 1]],
    "documents longer than a window": [[50, 3], [41]],
    "one document": [[37]],
    "one token": [[1]],
    "less than one window": [[2, 3]],
    "many": [[7] * 20, [13] * 9, [1], [100]],
}


def targets(shards) -> list[int]:
    """What has to be learnt once an epoch: every token, and an end-of-text for each document."""
    return sorted(token for documents in shards for document in documents for token in (*document, EOT))


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("n_ctx", [1, 2, 5, 16, 64])
def test_every_token_is_a_label_exactly_once_an_epoch(lengths, n_ctx):
    shards = [documents_of(shard, seed=n) for n, shard in enumerate(lengths)]
    offset = 0
    for documents in shards:  # ids of different shards must differ as well
        for document in documents:
            document[:] = [token + offset for token in document]
        offset += 100_000
    flat = [token for documents in shards for document in documents for token in (*document, EOT)]
    before = {token: flat[place - 1] for place, token in enumerate(flat) if token != EOT}
    source = Packed(stream(*shards), n_ctx=n_ctx, key=5)
    borders = set()
    for number in range(8):
        ids, labels = epoch(source, n_ctx, number)
        assert sorted(labels[labels >= 0].tolist()) == targets(shards)
        assert (ids[labels < 0] == EOT).all() and ((labels < 0).sum(axis=1) > 0).sum() <= 1
        for row_ids, row_labels in zip(ids.tolist(), labels.tolist(), strict=True):
            real = [label for label in row_labels if label >= 0]
            assert row_labels == real + [-1] * (n_ctx - len(real)), "padding is at the end"
            assert row_ids[1 : len(real)] == real[: len(real) - 1], "labels are the ids of the next place"
            assert all(before[label] == token for token, label in zip(row_ids, real, strict=False) if label != EOT)
            borders.add(row_ids[0])
    if len(flat) > 4 * n_ctx and n_ctx > 1:
        assert len(borders) > source.count, "the borders of windows move from epoch to epoch"


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(0, 2**62),
    st.integers(0, 10**6),
)
def test_exactly_once_whatever_the_shape(lengths, n_ctx, key, number):
    shards = [[[7 * (s + 1)] * length for length in shard] for s, shard in enumerate(lengths)]
    _, labels = epoch(Packed(stream(*shards), n_ctx=n_ctx, key=key), n_ctx, number)
    assert sorted(labels[labels >= 0].tolist()) == targets(shards)


def test_order_differs_between_epochs_and_seeds_and_documents_keep_theirs():
    documents = documents_of([40] * 50)
    one = Packed(stream(documents), n_ctx=8, key=1)
    first, second = epoch(one, 8, 0)[0], epoch(one, 8, 1)[0]
    other = epoch(Packed(stream(documents), n_ctx=8, key=2), 8, 0)[0]
    assert not np.array_equal(first, second) and not np.array_equal(first, other)
    flat = [token for document in documents for token in (*document, EOT)]
    ring = flat + flat[:8]
    where = {token: place for place, token in enumerate(flat) if token != EOT}
    padded = epoch(one, 8, 0)[1].min(axis=1) < 0
    for row in first[~padded].tolist():
        place = next(where[token] - at for at, token in enumerate(row) if token != EOT)
        assert [ring[(place + at) % len(flat)] for at in range(8)] == row, "inside a window the text is as it was"


def test_workers_make_their_rows_and_no_others():
    made = batches(
        Packed(stream(documents_of([9] * 40)), n_ctx=8, key=1), 8, 12, noise=0.3, n_vocab=50, document_mask=True
    )
    whole = made.stack(100, 3)
    for workers in (1, 2, 3, 4, 6, 12):
        size = 12 // workers
        parts = [made.stack(100, 3, rows=slice(w * size, (w + 1) * size)) for w in range(workers)]
        for name in ("ids", "labels", "segments"):
            together = np.concatenate([getattr(part, name) for part in parts], axis=1)
            assert np.array_equal(together, getattr(whole, name))
    for step in range(3):
        alone = made.batch(100 + step, rows=slice(4, 7))
        assert np.array_equal(alone.ids, whole.ids[step, 4:7]) and alone.ids.dtype == alone.labels.dtype == np.int32


def test_steps_and_epochs_do_not_depend_on_the_batch_size():
    """An epoch ends where it ends, inside a batch if need be: nothing is dropped and nothing comes twice."""
    source = Packed(stream(documents_of([9] * 13)), n_ctx=8, key=1)
    rows = [batches(source, 8, size).stack(0, 60 // size).ids.reshape(60, 8) for size in (1, 4, 5, 60)]
    assert all(np.array_equal(rows[0], other) for other in rows)
    assert batches(source, 8, 5).steps_per_epoch == source.count / 5 and source.targets == 130


def test_noise_changes_ids_at_its_rate_and_no_label():
    source = Packed(stream(documents_of([500] * 40)), n_ctx=64, key=1)
    clean, noisy = (batches(source, 64, 32, noise=p, n_vocab=5000, seed=3).stack(7, 8) for p in (0.0, 0.25))
    again = batches(source, 64, 32, noise=0.25, n_vocab=5000, seed=3).batch(9)
    assert np.array_equal(again.ids, noisy.ids[2]), "noise too is a function of the position alone"
    assert np.array_equal(clean.labels, noisy.labels)
    changed = clean.ids != noisy.ids
    assert abs(changed.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / changed.size)
    drawn = noisy.ids[changed]
    assert drawn.min() >= 0 and drawn.max() < 5000 and abs(drawn.mean() - 2500) < 150
    other = batches(source, 64, 32, noise=0.25, n_vocab=5000, seed=4).stack(7, 8)
    assert abs((changed & (clean.ids != other.ids)).mean() - 0.0625) < 0.02


def test_segments_number_the_documents_of_a_window():
    documents = documents_of([3, 4, 5, 2] * 5)
    made = batches(Packed(stream(documents), n_ctx=16, key=1), 16, 4, document_mask=True, noise=0.5, n_vocab=900).stack(
        0, 5
    )
    clean = batches(Packed(stream(documents), n_ctx=16, key=1), 16, 4).stack(0, 5)
    owner = {token: number for number, document in enumerate(documents) for token in document}
    for ids, segments in zip(clean.ids.reshape(-1, 16).tolist(), made.segments.reshape(-1, 16).tolist(), strict=True):
        assert segments[0] == 0
        for left in range(16):
            for right in range(left, 16):
                if EOT not in (ids[left], ids[right]):
                    same = owner[ids[left]] == owner[ids[right]]
                    assert same == (segments[left] == segments[right])
        for place in range(1, 16):
            assert segments[place] - segments[place - 1] == (ids[place] == EOT), "end-of-text opens what follows it"
    assert clean.segments is None


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_evaluation_of_everything_sees_every_token_once_in_batches_of_any_size(size):
    shards = [documents_of([9, 1, 30], seed=1), documents_of([12], seed=2)]
    sources = [Packed(stream(shard), n_ctx=8, key=n) for n, shard in enumerate(shards)]
    made = EvalBatches(sources, steps="all", batch_size=size, n_ctx=8, eot=EOT)
    labels = np.concatenate([made.batch(i).labels for i in range(made.count)])
    assert sorted(labels[labels >= 0].tolist()) == targets(shards) and labels.shape == (made.count * size, 8)
    assert all(np.array_equal(made.batch(i).ids, made.batch(i).ids) for i in range(made.count))
    with pytest.raises(IndexError):
        made.batch(made.count)


def test_evaluation_of_a_few_batches_is_spread_over_the_whole_text():
    source = Packed(stream(documents_of([1000])), n_ctx=8, key=1)
    order = np.array(stored(documents_of([1000]))[0].ids)
    made = EvalBatches([source], steps=5, batch_size=4, n_ctx=8, eot=EOT)
    assert made.count == 5
    first = [int(np.flatnonzero(order == label)[0]) for label in made.stack(0, 5).labels[:, :, 0].ravel()]
    assert first == sorted(set(first)) and first[0] == 0 and first[-1] > 900
    assert max(np.diff(first)) - min(np.diff(first)) <= 8
    everything = EvalBatches([source], steps=1000, batch_size=4, n_ctx=8, eot=EOT)
    assert everything.count == -(-source.count // 4), "no window is evaluated twice"


def test_chunks_are_their_records():
    shards = [documents_of([9] * 7, seed=1), [[token + 5000 for token in d] for d in documents_of([9] * 4, seed=2)]]
    source = Chunks(stream(*shards), n_ctx=8, key=1)
    assert (source.count, source.targets) == (11, 88)
    orders = []
    for number in range(3):
        ids, labels = epoch(source, 8, number)
        rows = [[*row, last[-1]] for row, last in zip(ids.tolist(), labels.tolist(), strict=True)]
        assert sorted(rows) == sorted(document for shard in shards for document in shard)
        assert (labels[:, :-1] == ids[:, 1:]).all()
        orders.append(ids[:, 0].tolist())
    assert orders[0] != orders[1] != orders[2]
    with pytest.raises(UserError, match=r"records of n_ctx \+ 1 = 9 tokens, but document 2 has 4"):
        Chunks(Stream(stored([[1] * 9, [2] * 9, [3] * 4])), n_ctx=8, key=1)
