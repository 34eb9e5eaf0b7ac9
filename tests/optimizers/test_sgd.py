"""Gradient descent, with and without momentum, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt import optimizers


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_30_steps_equal_torch(configured, run, problem, momentum):
    torch = pytest.importorskip("torch")
    weight, gradients = problem((3, 4), 30)
    path, slots = run(configured(opt_name="sgd", beta1=momentum), "wte.weight", weight, gradients, [0.05] * 30)
    assert list(slots) == (["m"] if momentum else [])
    parameter = torch.nn.Parameter(torch.tensor(weight))
    peer = torch.optim.SGD([parameter], lr=0.05, momentum=momentum)
    for step, gradient in enumerate(gradients):
        parameter.grad = torch.tensor(gradient)
        peer.step()
        np.testing.assert_allclose(path[step], parameter.detach().numpy(), rtol=2e-6, atol=2e-6)


def test_decay_is_decoupled_from_momentum(configured, run):
    """Were the decay part of the gradient, it would gather in the momentum: 0.81 - 0.09 at the second step."""
    config = configured(opt_name="sgd", beta1=0.9, weight_decay=1.0)
    path, slots = run(config, "wte.weight", np.ones((1, 1)), [np.zeros((1, 1))] * 2, [0.1, 0.1])
    np.testing.assert_allclose(np.ravel(path), [0.9, 0.81], rtol=1e-6)
    assert slots["m"] == 0


def test_plain_descent_needs_no_state(configured):
    assert optimizers.build(configured(opt_name="sgd", beta1=0.0)).slots("wte.weight", (50257, 768)) == {}
