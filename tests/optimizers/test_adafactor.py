"""Adafactor step by step against the paper in float64, against transformers', and its memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfgpt import optimizers

NAME = {0: "scalar", 1: "h.0.mlp.c_fc.bias", 2: "h.0.mlp.c_fc.weight", 3: "stack"}


def reference(x, gradients, rates, *, beta2, beta1, decay):
    """Algorithms 4 and 5 of arXiv:1804.04235 in float64, with sums over rows and columns as the paper has them."""
    x, momentum, path = x.astype("float64"), 0.0, []
    rows, columns, full = 0.0, 0.0, 0.0
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        alpha = max(1e-3, math.sqrt(np.mean(x * x))) * lr
        b, squares = beta2(t), g * g + 1e-30
        if x.ndim >= 2:
            ones_m, ones_n = np.ones(x.shape[-1]), np.ones(x.shape[-2])
            rows = b * rows + (1 - b) * (squares @ ones_m)
            columns = b * columns + (1 - b) * np.einsum("n,...nm->...m", ones_n, squares)
            v = np.einsum("...n,...m->...nm", rows, columns) / np.sum(rows, axis=-1)[..., None, None]
        else:
            full = b * full + (1 - b) * squares
            v = full
        u = g / np.sqrt(v)
        change = alpha * u / max(1.0, math.sqrt(np.mean(u * u)) / 1.0)
        momentum = beta1 * momentum + (1 - beta1) * change
        x = x - momentum - lr * decay * x
        path.append(x)
    return path


@pytest.mark.parametrize("shape", [(), (6,), (5, 7), (1, 9), (9, 1), (3, 4, 6)])
@pytest.mark.parametrize(("decay_type", "beta1", "decay"), [("pow", 0.0, 0.0), ("adam", 0.9, 0.02), ("pow", 0.5, 0.1)])
def test_40_steps_equal_the_paper(configured, run, problem, shape, decay_type, beta1, decay):
    weight, gradients = problem(shape, 40, seed=len(shape))
    rates = [0.02 if step < 30 else 0.005 for step in range(40)]
    keys = dict(decay_type=decay_type, decay_exponent=0.7, beta1=beta1, beta2=0.95, weight_decay=decay, decay="all")
    path, slots = run(configured(opt_name="adafactor", **keys), NAME[len(shape)], weight, gradients, rates)

    schedules = {"pow": lambda t: 1 - t**-0.7, "adam": lambda t: 0.95 * (1 - 0.95 ** (t - 1)) / (1 - 0.95**t)}
    exact = reference(weight, gradients, rates, beta2=schedules[decay_type], beta1=beta1, decay=decay)
    for step in range(40):
        np.testing.assert_allclose(path[step], exact[step], rtol=0, atol=3e-6, err_msg=f"step {step}")
    factored = {"vr": shape[:-1], "vc": shape[:-2] + shape[-1:]}
    expected = (factored if len(shape) >= 2 else {"v": shape}) | ({"m": shape} if beta1 else {})
    assert {slot: value.shape for slot, value in slots.items()} == expected


@pytest.mark.parametrize("shape", [(6,), (5, 7)])
def test_equals_transformers(configured, run, problem, shape):
    torch, optimization = pytest.importorskip("torch"), pytest.importorskip("transformers.optimization")
    weight, gradients = problem(shape, 25)
    path, _ = run(configured(opt_name="adafactor", beta1=0.9), NAME[len(shape)], weight, gradients, [0.01] * 25)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    peer = optimization.Adafactor([parameter], lr=0.01, beta1=0.9, relative_step=False, scale_parameter=True)
    for step, gradient in enumerate(gradients):
        parameter.grad = torch.tensor(gradient)
        peer.step()
        np.testing.assert_allclose(path[step], parameter.detach().numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("decay_type", ["pow", "adam"])
def test_gradients_of_any_size_give_the_same_step(configured, run, decay_type):
    """The update does not depend on the gradient's size, down to where squares come near the paper's 1e-30."""
    rng = np.random.default_rng(1)
    weight, gradient = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    config = configured(opt_name="adafactor", beta1=0.0, decay_type=decay_type)
    paths = [run(config, NAME[2], weight, [gradient * size] * 2, [0.1] * 2)[0][-1] for size in (1.0, 1e-11, 1e15)]
    np.testing.assert_allclose(paths[1], paths[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(paths[2], paths[0], rtol=0, atol=1e-6)


def test_state_of_a_large_matrix_is_small(configured):
    slots = optimizers.build(configured(opt_name="adafactor")).slots("h.0.mlp.c_fc.weight", (768, 3072))
    assert sum(4 * math.prod(shape) for shape in slots.values()) == 4 * (768 + 3072) < 20_000
