"""Both steps on one replica: the same updates as PyTorch's, whether accumulated, recomputed or compiled by XLA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training import small
from tfgpt.errors import UserError
from tfgpt.training import snapshot
from tfgpt.training import step as step_module


def here(**keys):
    return small.place(tf.distribute.get_strategy(), **keys)


@pytest.fixture(scope="module", params=[False, True], ids=["tensorflow", "own"])
def own(request):
    """Whether gradients and updates are by our own compiled code."""
    return request.param


@pytest.fixture(scope="module")
def plain(own):
    return small.updates(small.config(n_layer=2), here(own=own))


def test_updates_equal_pytorchs(plain):
    """Loss, clip, decay, schedule and AdamW against transformers and torch, with labels ignored unevenly."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = small.config(n_layer=2)
    shape = transformers.GPT2Config(
        vocab_size=257, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = transformers.GPT2LMHeadModel(shape).train()
    ours = snapshot.weights_of(small.step_of(config, here()))
    ours["wte.weight"] = ours["wte.weight"][:257]
    missing = model.transformer.load_state_dict({k: torch.tensor(v) for k, v in ours.items()}, strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if "bias" in k and "attn.bias" not in k]
    weights = dict(model.transformer.named_parameters())
    groups = [
        {"params": [w for w in weights.values() if w.dim() >= 2], "weight_decay": 0.1},
        {"params": [w for w in weights.values() if w.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.epsilon)
    for step, (ids, labels) in enumerate(zip(*small.batches(), strict=True)):
        logits = model(torch.tensor(ids, dtype=torch.long)).logits
        wanted = torch.tensor(labels, dtype=torch.long).flatten()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), config.clip)
        # Linear warm-up over 3 steps, then a cosine that is 0 at step 30.
        rate = config.lr * ((step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 27)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert plain["losses"][step] == pytest.approx(loss.item(), abs=1e-5)
        assert plain["norms"][step] == pytest.approx(norm.item(), rel=1e-5)
        assert norm.item() > config.clip, "the clip is at work"
        assert plain["rates"][step] == pytest.approx(rate, rel=1e-6)
        assert plain["tokens"][step] == (labels >= 0).sum()
    for name, weight in weights.items():
        found = plain[f"weight {name}"][: len(weight)]
        # Four updates of about 0.003; where a gradient is next to nothing Adam's quotient is anything.
        difference = np.abs(found - weight.detach().numpy())
        assert difference.max() < 2e-4 and np.median(difference) < 1e-6, name


@pytest.mark.parametrize(
    "keys",
    [{"accumulate": 4}, {"recompute": "block"}, {"recompute": 2}],
    ids=lambda keys: "-".join(f"{key}-{value}" for key, value in keys.items()),
)
def test_the_way_of_computing_changes_nothing(plain, own, keys):
    small.same(plain, small.updates(small.config(n_layer=2, **keys), here(own=own)))


def test_xla_changes_nothing_with_dropout_and_recomputation():
    """One compilation for all of it, as that takes its time; the accumulation is a loop around what is compiled."""
    keys = {"accumulate": 4, **small.DROPOUT}
    plain = small.updates(small.config(**keys), here())
    small.same(plain, small.updates(small.config(recompute="block", **keys), here(xla=True)))


def test_keras_21207_recomputed_dropout_has_the_same_gradient(own):
    """A recomputed block draws the mask of its forward pass again, not a new one."""
    plain = small.updates(small.config(n_layer=2), here(), count=1)
    both = [
        small.updates(small.config(n_layer=2, recompute=how, **small.DROPOUT), here(own=own), count=3)
        for how in ("none", "block")
    ]
    small.same(*both)
    assert abs(both[0]["losses"][0] - plain["losses"][0]) > 1e-4, "dropout was on"


def test_trainable_patterns_leave_the_rest_alone(own):
    config = small.config(trainable=["h.0.mlp.*", "ln_f.bias"])
    before = snapshot.weights_of(step := small.step_of(config, here(own=own)))
    trained = {name for name in before if name.startswith("h.0.mlp.") or name == "ln_f.bias"}
    assert {name.split("/")[0] for name in step.variables()} == trained, "nothing else has optimizer state"
    step.train(*small.batches(3), None, first=0)
    for name, value in snapshot.weights_of(step).items():
        assert (value.tobytes() == before[name].tobytes()) == (name not in trained), name


def test_a_pattern_without_a_weight_is_refused():
    with pytest.raises(UserError, match=r"h\.9\.\*"):
        small.step_of(small.config(trainable=["ln_f.*", "h.9.*"]), here())


def test_evaluation_pads_no_loss_in(own):
    """The sum over an evaluation batch with missing labels is that of the training loss at the same weights."""
    step = small.step_of(small.config(), here(own=own))
    ids, labels = small.batches(1)

    class One:
        batch_size = 8

        def batch(self, number, rows):
            return ids[0][rows], labels[0][rows], None

    total, count = step.evaluate(One(), 0)
    assert count == (labels >= 0).sum()
    assert total / count == pytest.approx(step.train(ids, labels, None, first=0).losses[0], rel=1e-6)


def test_traced_once_for_calls_of_any_length(own):
    """Tracing takes as long as many steps; and how steps are divided into calls changes no bit."""
    step, other = (small.step_of(small.config(), here(own=own)) for _ in range(2))
    ids, labels = small.batches(4)
    whole = step.train(ids, labels, None, first=0).losses
    parts = [
        other.train(ids[first:last], labels[first:last], None, first=first).losses
        for first, last in ((0, 1), (1, 3), (3, 4))
    ]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert own or other._train.experimental_get_tracing_count() == 1


def norm_of(*gradients):
    return float(step_module._global_norm([tf.constant(gradient, tf.float32) for gradient in gradients]))


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e15])
def test_the_global_norm_is_that_of_all_gradients_together(size):
    rng = np.random.default_rng(6)
    gradients = [(rng.normal(size=shape) * size).astype("float32") for shape in ((5, 7), (3,), (2, 3, 4), ())]
    exact = np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in gradients))
    assert norm_of(*gradients) == pytest.approx(exact, rel=1e-6)
    assert norm_of(np.zeros((2, 2))) == 0.0


def test_the_global_norm_of_a_large_table_is_exact():
    """The root of this table's product with itself, in float32, is 1.4e-3 too short."""
    table = np.random.default_rng(7).normal(size=(8192, 768)).astype("float32")
    assert norm_of(table) == pytest.approx(np.sqrt(np.sum(table.astype("float64") ** 2)), rel=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e25])
def test_a_gradient_that_cannot_be_used_has_no_finite_norm(bad):
    """Numbers whose squares overflow count as such: no model was ever trained with a gradient of 1e25."""
    gradient = np.ones((5, 7), "float32")
    gradient[2, 3] = bad
    assert not np.isfinite(norm_of(gradient, np.ones(3)))
