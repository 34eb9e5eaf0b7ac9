"""AdamW against PyTorch's, and against the two papers in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt import optimizers

MATRIX, BIAS = "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias"


def reference(weight, gradients, rates, *, beta1, beta2, epsilon, decay):
    """Algorithm 2 of arXiv:1711.05101, in float64."""
    m, v, path = np.zeros_like(weight), np.zeros_like(weight), []
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        weight = weight - lr * (m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon) + decay * weight)
        path.append(weight)
    return path


@pytest.mark.parametrize(
    ("beta1", "beta2", "epsilon", "decay"), [(0.9, 0.98, 1e-9, 0.0), (0.9, 0.999, 1e-8, 0.1), (0.0, 0.95, 1e-3, 0.3)]
)
def test_150_steps_equal_float64_and_torch(configured, run, problem, beta1, beta2, epsilon, decay):
    torch = pytest.importorskip("torch")
    weight, gradients = problem((7, 5), 150)
    rates = [0.01 * (1 + step % 10) / 10 for step in range(150)]
    config = configured(beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=decay)
    path, _ = run(config, MATRIX, weight, gradients, rates)

    exact = reference(weight, gradients, rates, beta1=beta1, beta2=beta2, epsilon=epsilon, decay=decay)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    peer = torch.optim.AdamW([parameter], betas=(beta1, beta2), eps=epsilon, weight_decay=decay)
    for step, (gradient, lr) in enumerate(zip(gradients, rates, strict=True)):
        parameter.grad, peer.param_groups[0]["lr"] = torch.tensor(gradient), lr
        peer.step()
        np.testing.assert_allclose(path[step], exact[step], rtol=0, atol=2e-6)
        np.testing.assert_allclose(path[step], parameter.detach().numpy(), rtol=0, atol=2e-6)


def test_the_first_updates_are_exact_with_a_beta_near_one(configured, run):
    """1 - beta^t in plain float32 would be off by 3e-5 here, and the update by half of that."""
    weight, gradients = np.zeros(1), [np.ones(1)] * 3
    path, _ = run(configured(beta1=0.0, beta2=0.999), BIAS, weight, gradients, [1.0] * 3)
    np.testing.assert_allclose(np.diff([0.0, *np.ravel(path)]), -1.0, rtol=5e-7)


def test_late_steps_are_finite_and_uncorrected(configured):
    optimizer = optimizers.build(configured(beta1=0.9, beta2=0.999, epsilon=1e-8))
    slots = {"m": np.full(2, 0.5, "float32"), "v": np.full(2, 4.0, "float32")}
    new, _ = optimizer.update(BIAS, np.zeros(2), np.full(2, 0.5), slots, lr=1.0, step=2**31 - 2)
    np.testing.assert_allclose(new, -0.5 / np.sqrt(0.999 * 4 + 0.001 * 0.25), rtol=1e-6)


def test_decay_is_not_rounded_away_at_a_small_rate(configured):
    """1 - lr * decay in float32 has 10 times the last digit of 1.0 in place of 10.5, at each step again."""
    weight = np.random.default_rng(0).uniform(1e-3, 1, 100_000).astype("float32")
    optimizer = optimizers.build(configured(weight_decay=0.01))
    slots = {"m": np.zeros_like(weight), "v": np.zeros_like(weight)}
    new, _ = optimizer.update(
        MATRIX, weight[None], weight[None] * 0, {k: v[None] for k, v in slots.items()}, lr=6.26e-5, step=0
    )
    lost = np.sum(weight - np.array(new)[0], dtype="float64") / np.sum(weight, dtype="float64")
    assert lost == pytest.approx(6.26e-7, rel=3e-3)


def test_decay_touches_matrices_or_all(configured):
    names = {"wte.weight": (9, 4), "wpe.weight": (5, 4), MATRIX: (4, 8), BIAS: (8,), "ln_f.weight": (4,)}
    for decay, touched in (("matrices", ["wte.weight", "wpe.weight", MATRIX]), ("all", list(names))):
        config = configured(weight_decay=0.5, decay=decay)
        assert [name for name, shape in names.items() if optimizers.decays(config, name, shape)] == touched
        for name, shape in names.items():
            zeros = np.zeros(shape)
            new, _ = optimizers.build(config).update(name, zeros + 1, zeros, {"m": zeros, "v": zeros}, lr=0.1, step=4)
            np.testing.assert_allclose(new, 0.95 if name in touched else 1.0, rtol=1e-7)
