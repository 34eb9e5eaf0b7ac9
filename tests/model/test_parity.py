"""The same weights in transformers' GPT-2 (PyTorch): logits, loss and every gradient."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.conftest import batch, loss_and_gradients, made, weights_of


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


def peer(torch, gpt):
    """transformers' model with our weights, taken over by name without a single change of layout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    form = gpt.form
    sizes = {"n_embd": form.n_embd, "n_layer": form.n_layer, "n_head": form.n_head, "n_positions": form.n_ctx}
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=form.n_vocab, **sizes, **dropout)).train()
    state = {f"transformer.{name}": torch.from_numpy(value) for name, value in weights_of(gpt).items()}
    state["transformer.wte.weight"] = state["transformer.wte.weight"][: form.n_vocab].clone()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and missing == ["lm_head.weight"]
    model.tie_weights()
    return model


def test_logits_and_gradients_equal_those_of_transformers(torch):
    gpt = made(n_layer=3, n_embd=96, n_head=6, n_ctx=320, n_vocab=1000)
    ids, labels = batch(gpt, length=300, ignored=0.1)
    model = peer(torch, gpt)
    logits = model(torch.from_numpy(ids).long()).logits
    np.testing.assert_allclose(np.array(gpt(ids)), logits.detach().numpy(), atol=1e-4)
    targets = torch.from_numpy(labels).long().flatten()
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1, reduction="sum")
    theirs.backward()
    loss, gradients = loss_and_gradients(gpt, ids, labels)
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    expected = {name.removeprefix("transformer."): p.grad.numpy() for name, p in model.named_parameters()}
    assert expected.keys() == gradients.keys()
    for name, want in expected.items():
        found = gradients[name][: len(want)]  # theirs has no padding
        assert np.linalg.norm(found - want) <= 1e-3 * np.linalg.norm(want), name
        assert np.abs(found - want).max() <= 1e-3 * np.abs(want).max(), name
