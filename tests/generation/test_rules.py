"""Each rule of sampling against its definition written as a loop, and against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generation.fake import logits_of
from tfgpt.generation import rules


def rows(count=60, n_vocab=50):
    """Logits with many ties, few ties and none; some tokens impossible."""
    for number in range(count):
        row = logits_of([number], n_vocab)
        if number % 3 == 0:
            row = np.round(row)
        if number % 4 == 0:
            row[:: 1 + number % 7] = -np.inf
            row[1] = 0.0
        yield row


def softmax(row):
    mass = np.exp(row.astype(np.float64) - row.max())
    return mass / mass.sum()


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 51, 10**6])
def test_likeliest_keeps_all_that_tie_with_the_last(k):
    for row in rows():
        order = sorted(row, reverse=True)
        least = order[min(k, len(order)) - 1]
        expected = [place for place, value in enumerate(row) if value >= least]
        assert rules.likeliest(row, k).tolist() == expected and len(expected) >= min(k, len(row))


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-12])
def test_nucleus_is_the_smallest_set_that_reaches_p(p):
    for row in rows():
        chances = softmax(row)
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))
        kept, mass = [], 0.0
        for place in order:
            kept.append(place)
            mass += chances[place]
            if mass >= p:
                break
        found = rules.nucleus(row.astype(np.float64), p).tolist()
        if found != sorted(kept):
            # Only where the mass meets p to the last bits may another way of summing decide otherwise.
            assert abs(len(found) - len(kept)) == 1 and abs(mass - p) < 1e-9


@pytest.mark.parametrize("min_p", [1e-12, 0.01, 0.3, 1.0])
def test_not_far_below(min_p):
    for row in rows():
        chances = softmax(row)
        found = set(rules.not_far_below(row, min_p).tolist())
        for place, chance in enumerate(chances):
            if abs(chance - min_p * chances.max()) > 1e-7 * chances.max() or min_p == 1.0:
                assert (place in found) == (chance >= min_p * chances.max())


def test_penalty_divides_positive_and_multiplies_negative_logits_once():
    row = np.array([2.0, -2.0, 0.0, 4.0, -1.0], np.float32)
    found = rules.penalised(row, [0, 0, 1, 2], 4.0)
    assert found.tolist() == [0.5, -8.0, 0.0, 4.0, -1.0]
    assert row.tolist() == [2.0, -2.0, 0.0, 4.0, -1.0], "what the engine gave is left alone"
    softer = rules.penalised(row, [0, 1], 0.5)
    assert softer.tolist() == [4.0, -1.0, 0.0, 4.0, -1.0], "below 1, what was seen becomes likelier"


def test_bias_and_bans_touch_their_ids_only():
    row = logits_of([1], 20)
    found = rules.banned(rules.biased(row, {3: 1.5, 7: -2.0}), [0, 19])
    expected = row.copy()
    expected[3] += 1.5
    expected[7] -= 2.0
    expected[[0, 19]] = -np.inf
    assert found.tolist() == expected.tolist()


def test_transformers_processors_agree():
    """Every rule that transformers has too leaves the same tokens with the same logits."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")

    def processed(processor, row, ids=((0,),)):
        out = processor(torch.tensor(ids, dtype=torch.long), torch.tensor(row[None].copy()))
        return out[0].numpy()

    for number, row in enumerate(rows()):
        for k in (1, 5, 49):
            kept = np.flatnonzero(np.isfinite(processed(theirs.TopKLogitsWarper(k), row)))
            ours = rules.likeliest(row, k)
            assert kept.tolist() == ours[np.isfinite(row[ours])].tolist()
        for p in (0.2, 0.77, 0.95):
            if number % 3 == 0:
                continue  # of equals, theirs keeps whichever its sort puts first
            kept = np.flatnonzero(np.isfinite(processed(theirs.TopPLogitsWarper(p), row)))
            assert kept.tolist() == rules.nucleus(row, p).tolist()
        for min_p in (0.03, 0.4):
            kept = np.flatnonzero(np.isfinite(processed(theirs.MinPLogitsWarper(min_p), row)))
            assert kept.tolist() == rules.not_far_below(row, min_p).tolist()
        seen = [1, 4, 4, 30]
        found = processed(theirs.RepetitionPenaltyLogitsProcessor(1.3), row, [seen])
        np.testing.assert_allclose(rules.penalised(row, seen, 1.3), found, rtol=2e-7)
        bias = {(3,): 1.5, (7,): -4.0}
        found = processed(theirs.SequenceBiasLogitsProcessor(bias), row)
        np.testing.assert_allclose(rules.biased(row, {3: 1.5, 7: -4.0}), found, rtol=1e-6)
