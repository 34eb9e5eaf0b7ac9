"""Recomputed blocks: the very same gradients, dropout included."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import batch, documents, loss_and_gradients, made

KEYS = {"n_layer": 2, "embed_dropout": 0.1, "attn_dropout": 0.2, "res_dropout": 0.2}
# Op by op the numbers are the same to the last bit; a compiler may fuse, and so round, otherwise.
WAYS = {"eager": (None, 0, ["block", 2]), "graph": (False, 1e-5, ["block", 2]), "xla": (True, 1e-5, ["block"])}


@pytest.mark.parametrize("way", WAYS)
def test_recomputed_gradients_are_the_kept_ones(key, way):
    jit, tolerance, kinds = WAYS[way]
    found = {}
    for recompute in ["none", *kinds]:
        gpt = made(recompute=recompute, **KEYS)
        ids, labels = batch(gpt)
        found[recompute] = loss_and_gradients(gpt, ids, labels, documents(ids.shape), key=key, jit=jit)
    loss, gradients = found.pop("none")
    for other_loss, other in found.values():
        assert other_loss == pytest.approx(loss, rel=tolerance)
        for name, want in gradients.items():
            np.testing.assert_allclose(other[name], want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=name)


def test_evaluation_does_not_recompute():
    gpt = made(recompute="block")
    ids, labels = batch(gpt)
    parts, passes = gpt.parts(), []
    keep = parts._keep
    parts._keep = lambda *given: passes.append(1) or keep(*given)
    found = float(parts.loss(gpt.values(), ids, labels))
    assert not passes and found == pytest.approx(loss_and_gradients(made(), ids, labels)[0], rel=1e-6)
