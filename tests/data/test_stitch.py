"""Stitched windows against a plain loop over the same groups: the lineage's way without its bugs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.data.shards_of import EOT, batches, documents_of, epoch, stream
from tfgpt.data.stitch import Stitched, enough


def made(documents, n_ctx, stitch, *, random=True, key=1) -> Stitched:
    return Stitched(stream(documents), n_ctx=n_ctx, key=key, stitch=stitch, random=random)


def windows(source, n_ctx, epochs=1) -> list[list[int]]:
    """n_ctx + 1 tokens of each window; of a padded one, only what is real."""
    found = []
    for number in range(epochs):
        ids, labels = epoch(source, n_ctx, number)
        for row_ids, row_labels in zip(ids.tolist(), labels.tolist(), strict=True):
            real = [label for label in row_labels if label >= 0]
            assert row_labels == real + [-1] * (n_ctx - len(real))
            assert row_ids[: len(real)][1:] == real[:-1] and set(row_ids[len(real) :]) <= {EOT}
            found.append(row_ids[:1] + real)
    return found


def parts(window) -> list[list[int]]:
    return [list(group) for is_eot, group in itertools.groupby(window, lambda token: token == EOT) if not is_eot]


def test_an_exact_fit_is_the_whole_text_and_its_last_token_counts():
    """Two documents of 4 make 9 tokens with the end-of-text between them: the range of offsets holds one value."""
    documents = documents_of([4] * 6)
    texts = {tuple([*one, EOT, *two]) for one in documents for two in documents}
    for window in windows(made(documents, 8, 2), 8, epochs=20):
        assert tuple(window) in texts


def test_every_offset_up_to_the_last_one_is_drawn():
    (document,) = documents_of([20])
    source = made([document], 8, 1)
    firsts = [document.index(window[0]) for window in windows(source, 8, epochs=3000)]
    assert set(firsts) == set(range(20 - 9 + 1)), "offset 11 makes the last token of the text a label"
    counts = np.bincount(firsts)
    assert ((counts - 250) ** 2 / 250).sum() < 40, "all offsets are equally likely"


@pytest.mark.parametrize("count, stitch", [(12, 3), (13, 3), (5, 5), (7, 1), (3, 9)])
def test_a_group_is_joined_between_its_documents_and_each_document_is_used_once_an_epoch(count, stitch):
    documents = documents_of(list(range(3, 3 + count)))
    n_ctx = 500  # longer than any group: the whole of it is seen
    source = made(documents, n_ctx, stitch)
    for number in range(4):
        ids, _ = epoch(source, n_ctx, number)
        rows = [row for row in windows(source, n_ctx)]
        used = [document for row in rows for document in parts(row)]
        assert all(document in documents for document in used)
        assert all(len(parts(row)) == min(stitch, count) and row.count(EOT) == min(stitch, count) - 1 for row in rows)
        times = [used.count(document) for document in documents]
        assert min(times) == 1 and sum(times) == len(rows) * min(stitch, count) and max(times) <= 2
        assert len(ids) == source.count == -(-count // min(stitch, count))


def test_windows_inside_long_groups_are_stretches_of_their_text():
    documents = documents_of([17, 5, 9, 30, 2, 11] * 6)
    owner = {token: number for number, document in enumerate(documents) for token in document}
    for window in windows(made(documents, 12, 4), 12, epochs=10):
        assert len(window) == 13
        for number, piece in enumerate(found := parts(window)):
            document = documents[owner[piece[0]]]
            at = document.index(piece[0])
            assert document[at : at + len(piece)] == piece
            if number:
                assert at == 0, "behind an end-of-text a document begins"
            if number < len(found) - 1:
                assert at + len(piece) == len(document), "and before one it ends"


def test_sample_takes_the_beginning():
    documents = documents_of([17, 25, 9, 30] * 3)
    for window in windows(made(documents, 12, 2, random=False), 12, epochs=3):
        assert any(document[: len(parts(window)[0])] == parts(window)[0] for document in documents)


def test_epochs_shuffle_and_positions_far_away_are_as_good_as_near_ones():
    source = made(documents_of([20] * 30), 8, 3)
    first, second = epoch(source, 8, 0)[0], epoch(source, 8, 1)[0]
    assert not np.array_equal(first, second)
    grouped = made(documents_of([20] * 30), 62, 3, random=False)
    groups = [{tuple(sorted(row)) for row in windows(grouped, 62, epochs=number)[-10:]} for number in (1, 2)]
    assert len(groups[0] & groups[1]) < 3, "other documents come together in another epoch"
    far = batches(source, 8, 4).stack(10**6, 2)
    assert np.array_equal(far.ids[1], batches(source, 8, 4).batch(10**6 + 1).ids)


def test_stitch_is_computed_from_lengths_when_it_is_absent():
    assert (enough(1024, 128), enough(1024, 25), enough(8, 9), enough(8, 100)) == (9, 41, 1, 1)
    source = made(documents_of([5] * 50), 12, None)
    assert source.stitch == 3 and not source.note and all(len(w) == 13 for w in windows(source, 12))
    # One tiny document among long ones does not make every group 31 documents long.
    odd = made(documents_of([1] + [31] * 50), 30, None)
    assert odd.stitch == 4 and "stitch 31 always fills them" in odd.note
    assert made(documents_of([5, 5]), 100, None).stitch == 2, "never more than there are documents"


def test_a_stitch_that_is_too_small_pads_and_says_which_would_do():
    documents = documents_of([3, 4, 5] * 4)
    source = made(documents, 12, 2)
    assert "shorter than a window of 13" in source.note and "stitch 5 always fills them" in source.note
    assert all(window in [[*a, EOT, *b] for a in documents for b in documents] for window in windows(source, 12))
    single = made([[5]], 12, None)
    assert epoch(single, 12)[1].max() == -1, "a text of one token has nothing to predict"


def test_a_mixture_holds_its_shares_and_the_order_of_each_part():
    """Each part of the mixture walks through its own windows just as it would alone."""
    sources = [made([[t + 10_000 * n for t in d] for d in documents_of([20] * 9)], 8, 2, key=n) for n in range(3)]
    mixture = batches(sources, 8, 10, weights=[0.2, 0.5, 0.3])
    rows = mixture.stack(0, 60).ids.reshape(-1, 8)
    part = np.median(rows, axis=1) // 10_000
    for number, share in enumerate([0.2, 0.5, 0.3]):
        mine = rows[part == number]
        assert len(mine) == share * 600
        alone = batches(sources[number], 8, 1).stack(0, len(mine)).ids[:, 0]
        assert np.array_equal(mine, alone)
    assert all(abs((part[:n] == 1).sum() - n / 2) <= 2 for n in range(600))
    assert np.array_equal(mixture.batch(17, rows=slice(3, 9)).ids, rows[173:179])
