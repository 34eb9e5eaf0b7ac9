"""Which changes of the configuration a run survives, which it must be asked for, and which it never survives."""

from __future__ import annotations

import pytest

from tfgpt.config import Config
from tfgpt.errors import UserError
from tfgpt.training.changes import KIND_OF, KINDS, check, compare


def config(**keys):
    base = {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 2,
        "n_ctx": 16,
        "tokenizer": "byte",
        "data_path": "x",
        "max_steps": 1000,
    }
    return Config(**{**base, **keys}).model_dump(mode="json")


def test_every_key_has_a_place_and_only_one():
    assert set(Config.model_fields) <= set(KIND_OF)
    assert sum(len(keys.split()) for keys in KINDS.values()) == len(KIND_OF)


def test_equal_configurations_say_nothing():
    assert compare(config(), config()) == [] and check(config(), config(), data_changed=False, allow=False) == []


HARMLESS = {
    "max_steps": 5000, "train_steps": 7, "eval_steps": 3, "eval_batch_size": 4, "iterations": 5, "save_steps": 2,
    "save_minutes": 1.5, "keep_last": 1, "sample_every": 5, "guard": "stop", "on_corrupt": "skip", "top_k": 40,
    "predict_path": "y", "predict_batch_size": 2, "model_path": "elsewhere", "init": "seed", "init_from": "m",
    "recompute": "block", "fixed_attn_block_size": 4, "layer_offset": 2, "xla": "off", "tensorboard": False, "wandb": "project",
}  # fmt: skip
ASK = {
    "lr": 0.1, "warmup_steps": 5, "lr_schedule": "linear", "min_lr": 1e-5, "weight_decay": 0.1, "decay": "all",
    "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-8, "clip": 0.5, "accumulate": 2, "train_batch_size": 8, "seed": 2,
    "attn_dropout": 0.0, "res_dropout": 0.0, "embed_dropout": 0.0, "noise": 0.1, "document_mask": True,
    "precision": "bfloat16", "trainable": ["h.1.*"], "input": "openwebtext_long",
}  # fmt: skip
NEVER = {
    "n_layer": 3, "n_embd": 64, "n_head": 4, "n_ctx": 32, "vocab_multiple": 128, "opt_name": "adafactor", "local": True,
    "attention_types": [[["global", "local"], 1]], "n_vocab": 300,
}  # fmt: skip


@pytest.mark.parametrize("key", HARMLESS)
def test_harmless(key):
    notes = check(config(), config(**{key: HARMLESS[key]}), data_changed=False, allow=False)
    assert any(f"{key}: " in note for note in notes)


@pytest.mark.parametrize("key", ASK)
def test_only_when_asked_for(key):
    old, new = config(), config(**{key: ASK[key]})
    with pytest.raises(UserError, match=f"{key}: ") as caught:
        check(old, new, data_changed=False, allow=False)
    assert "--allow_change" in caught.value.fix
    assert any(
        f"{key}: " in note and "--allow_change" in note for note in check(old, new, data_changed=False, allow=True)
    )


@pytest.mark.parametrize("key", NEVER)
def test_never(key):
    local = {"fixed_attn_block_size": 16} if key in ("local", "attention_types") else {}
    with pytest.raises(UserError, match=f"{key}: ") as caught:
        check(config(**local), config(**local, **{key: NEVER[key]}), data_changed=False, allow=True)
    assert "--allow_change" not in caught.value.fix and "init_from" in caught.value.fix


def test_the_block_of_local_attention_never_changes_where_it_is_used():
    old = config(local=True, fixed_attn_block_size=16)
    with pytest.raises(UserError, match="fixed_attn_block_size: 16 -> 8"):
        check(old, config(local=True, fixed_attn_block_size=8), data_changed=False, allow=True)


def test_everything_is_in_one_report():
    new = config(n_layer=3, lr=0.5, seed=9, keep_last=1, model_path="models/mine")
    with pytest.raises(UserError) as caught:
        check(config(), new, data_changed=False, allow=False)
    text = str(caught.value)
    assert (
        "n_layer: 2 -> 3   (cannot change in a run)" in text and "seed: 1337 -> 9   (with --allow_change only)" in text
    )
    assert "lr: 0.00025 -> 0.5" in text and "keep_last" not in text and "models/mine" in text


def test_data_by_its_identity_not_by_its_place():
    old, new = config(), config(data_path="/mnt/new/x")
    assert len(check(old, new, data_changed=False, allow=False)) == 1
    with pytest.raises(UserError, match="data_path: "):
        check(old, new, data_changed=True, allow=False)
    assert check(old, new, data_changed=True, allow=True)
    with pytest.raises(UserError, match="other content at the same place"):
        check(old, old, data_changed=True, allow=False)


def test_a_mixture_moved_and_a_mixture_reweighed():
    def mix(folder, weight=1.0):
        parts = [{"train": [f"{folder}/a"], "weight": weight}, {"train": [f"{folder}/b"]}]
        return config(data_path=None, datasets=parts)

    assert check(mix("x"), mix("y"), data_changed=False, allow=False)
    with pytest.raises(UserError, match="datasets: "):
        check(mix("x"), mix("x", 2.0), data_changed=False, allow=False)


def test_warmup_that_only_follows_max_steps():
    assert config(max_steps=2000)["warmup_steps"] != config()["warmup_steps"]
    notes = check(config(), config(max_steps=2000), data_changed=False, allow=False)
    assert len(notes) == 2 and "schedule now ends there" in notes[1] + notes[0]
    with pytest.raises(UserError, match="warmup_steps"):
        check(config(), config(max_steps=2000, warmup_steps=100 + 1), data_changed=False, allow=False)


@pytest.mark.parametrize("name", ["adafactor", "sgd"])
def test_momentum_that_has_a_state_of_its_own_or_none(name):
    zero, some, more = (config(opt_name=name, beta1=b) for b in (0.0, 0.5, 0.9))
    with pytest.raises(UserError, match="beta1"):
        check(zero, some, data_changed=False, allow=True)
    assert check(some, more, data_changed=False, allow=True)


def test_a_key_that_the_checkpoint_does_not_know_yet():
    """A newer tfgpt adds keys; their defaults mean what was done before they came."""
    old = config()
    for key in ("clip", "warmup_steps", "save_steps"):
        del old[key]
    assert compare(old, config()) == []
    assert [change.kind for change in compare(old, config(clip=0.5))] == ["allow"]
    assert [change.kind for change in compare({**config(), "gone": 1}, config())] == ["allow"]


def test_configurations_that_came_through_json_compare_equal():
    import json

    new = Config(**{"n_layer": 2, "n_embd": 32, "data_path": "x", "attention_types": [[["global"], 2]]}).model_dump()
    assert compare(json.loads(json.dumps(new)), new) == []
