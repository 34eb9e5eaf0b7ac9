"""Muon: how orthogonal its updates are, that query, key and value are apart, and PyTorch's Muon beside it."""

from __future__ import annotations

import numpy as np
import pytest

from tfgpt import optimizers
from tfgpt.optimizers.muon import orthogonalize

E = 16
SHAPES = {
    "h.0.attn.c_attn.weight": (E, 3 * E),
    "h.11.attn.c_proj.weight": (E, E),
    "h.0.mlp.c_fc.weight": (E, 4 * E),
    "h.0.mlp.c_proj.weight": (4 * E, E),
}


def polynomial_of_singular_values(matrix):
    """What five rounds of the quintic do, in float64, to the singular values alone."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / max(np.sqrt(np.sum(values**2)), 1e-300)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


def reference(name, weight, gradients, rates, *, decay):
    """Muon by its definition in float64: momentum, Nesterov, one SVD for each matrix, the Moonlight scale."""
    momentum, path = np.zeros_like(weight), []
    for g, lr in zip(gradients, rates, strict=True):
        momentum = 0.95 * momentum + g
        ahead = g + 0.95 * momentum
        parts = np.split(ahead, 3, axis=1) if "c_attn" in name else [ahead]
        moved = np.concatenate([polynomial_of_singular_values(part) for part in parts], axis=1)
        weight = weight - lr * (0.2 * np.sqrt(max(parts[0].shape)) * moved + decay * weight)
        path.append(weight)
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_20_steps_equal_the_definition(configured, run, problem, name):
    weight, gradients = problem(SHAPES[name], 20)
    rates = [0.01 if step < 10 else 0.002 for step in range(20)]
    path, slots = run(configured(opt_name="muon", weight_decay=0.1), name, weight, gradients, rates)
    assert list(slots) == ["m"] and slots["m"].shape == SHAPES[name]
    exact = reference(name, weight, gradients, rates, decay=0.1)
    for step in range(20):
        np.testing.assert_allclose(path[step], exact[step], rtol=0, atol=1e-5, err_msg=f"step {step}")


@pytest.mark.parametrize("name", ["h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"])
def test_equals_torch_within_its_bfloat16(configured, run, problem, name):
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    weight, gradients = problem(SHAPES[name], 10)
    path, _ = run(configured(opt_name="muon", weight_decay=0.1), name, weight, gradients, [0.01] * 10)
    parameter = torch.nn.Parameter(torch.tensor(weight))
    peer = torch.optim.Muon([parameter], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        peer.step()
    moved, expected = path[-1] - weight, parameter.detach().numpy() - weight
    assert np.linalg.norm(moved - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [1e-25, 1e-3, 1e25])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (3, 24, 48)])
def test_singular_values_end_near_one(shape, size):
    matrices = np.random.default_rng(2).normal(size=shape) * size
    moved = np.array(orthogonalize(matrices.astype("float32")))
    values = np.linalg.svd(moved.astype("float64"), compute_uv=False)
    assert values.min() > 0.65 and values.max() < 1.25
    # The directions are those of the matrix: its polar factor is near, and nothing is turned.
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    assert np.sum(left @ right * moved) / np.prod(values.shape) == pytest.approx(np.mean(values), rel=1e-4)


def test_query_key_and_value_do_not_touch_each_other(configured, run):
    rng = np.random.default_rng(3)
    name, parts = "h.3.attn.c_attn.weight", rng.normal(size=(3, E, E))
    config, zero = configured(opt_name="muon"), np.zeros((E, 3 * E))
    (first,), _ = run(config, name, zero, [np.concatenate([parts[0], parts[1], parts[2]], axis=1)], [1.0])
    (other,), _ = run(config, name, zero, [np.concatenate([parts[0], parts[1] * 1e3, parts[2].T], axis=1)], [1.0])
    np.testing.assert_allclose(first[:, : 2 * E], other[:, : 2 * E], atol=2e-5)
    assert np.abs(first[:, 2 * E :] - other[:, 2 * E :]).max() > 0.1


def test_updates_measure_what_those_of_adamw_do(configured, run):
    for name, shape in SHAPES.items():
        gradient = np.random.default_rng(4).normal(size=shape)
        (moved,), _ = run(configured(opt_name="muon"), name, np.zeros(shape), [gradient], [1.0])
        assert 0.15 < np.sqrt(np.mean(moved**2)) < 0.25


@pytest.mark.parametrize(
    ("name", "shape"),
    [("wte.weight", (9, 4)), ("wpe.weight", (5, 4)), ("h.0.attn.c_attn.bias", (12,)), ("h.0.ln_1.weight", (4,))],
)
def test_everything_else_is_adamw(configured, run, problem, name, shape):
    weight, gradients = problem(shape, 5)
    keys = dict(beta1=0.8, beta2=0.97, weight_decay=0.1)
    muon, slots = run(configured(opt_name="muon", **keys), name, weight, gradients, [0.01] * 5)
    adam, _ = run(configured(opt_name="adam", **keys), name, weight, gradients, [0.01] * 5)
    assert list(slots) == ["m", "v"]
    np.testing.assert_array_equal(muon, adam)


def test_descends_where_plain_descent_is_slow(configured):
    """Least squares whose directions differ by 1e4 in curvature: Muon takes the small ones as fast as the large ones."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(E, E)))[0]
    hessian = basis * np.geomspace(1, 1e-4, E) @ basis.T
    target = rng.normal(size=(E, E)) * 0.5

    def left_after(steps, **keys):
        config = configured(max_steps=steps, warmup_steps=0, lr_schedule="linear", **keys)
        optimizer, weight = optimizers.build(config), np.zeros((E, E), "float32")
        name = "h.0.attn.c_proj.weight"
        slots = {slot: np.zeros(shape, "float32") for slot, shape in optimizer.slots(name, weight.shape).items()}
        for step in range(steps):
            gradient = hessian @ (np.array(weight) - target)
            lr = optimizers.learning_rate(config, step)
            weight, slots = optimizer.update(name, weight, gradient, slots, lr=lr, step=step)
        return np.linalg.norm(np.array(weight) - target) / np.linalg.norm(target)

    assert left_after(150, opt_name="muon", lr=0.3) < 0.08
    assert left_after(150, opt_name="sgd", beta1=0.0, lr=1.9) > 0.4
