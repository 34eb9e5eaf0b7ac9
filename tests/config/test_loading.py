"""Loading: the original four, defaults as documented, every mistake in one report."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tfgpt import config
from tfgpt.errors import Problems

# The published table of the four models of 2020.
TABLE = {
    "117M": (12, 768, 12, 32, 32, 1, "adam", 10_000, 10, 500_000, 500, "openwebtext"),
    "345M": (24, 1024, 16, 8, 8, 8, "adam", 10_000, 10, 500_000, 500, "openwebtext"),
    "PrettyBig": (25, 1024, 16, 256, 256, 1, "adam", 10_000, 10, 604_800, 100, "openwebtext_longbiased"),
    "1.5B": (48, 1600, 25, 512, 8, 1, "adafactor", 100_000, 10, 300_000, 100, "openwebtext_longbiased"),
}
COLUMNS = "n_layer n_embd n_head train_batch_size eval_batch_size predict_batch_size opt_name train_steps eval_steps max_steps iterations input"

# A file as people had it in 2020, every key of that time, on a bucket.
FROM_2020 = {
    "n_head": 12, "encoder_path": "gs://bucket/encoder", "n_vocab": 50257, "embed_dropout": 0.1, "lr": 0.00025,
    "warmup_steps": 2000, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-9, "decay_type": "pow",
    "decay_exponent": 0.8, "opt_name": "adam", "train_batch_size": 32, "attn_dropout": 0.1, "train_steps": 10000,
    "eval_steps": 10, "max_steps": 500000, "data_path": "gs://bucket/openwebtext/", "res_dropout": 0.1,
    "predict_batch_size": 1, "eval_batch_size": 32, "iterations": 500, "n_embd": 768, "input": "openwebtext_longbiased",
    "model": "GPT2", "model_dir": "gs://bucket/117M", "n_ctx": 1024, "predict_path": "logs/predictions.txt", "n_layer": 12,
    "scale_by_depth": True, "scale_by_in": True, "precision": "bfloat16", "top_k": 40, "local": True,
    "fixed_attn_block_size": 128, "layer_offset": 16,
}  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(values, name="my.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(values if isinstance(values, str) else json.dumps(values, indent=1), encoding="utf-8")
        return name

    return put


def mistakes(name, *overrides, check_files=False):
    with pytest.raises(Problems) as caught:
        config.load(name, overrides=overrides, check_files=check_files)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize("name", TABLE)
def test_the_four_originals_say_what_was_published(name):
    cfg = config.load(name, check_files=False)
    assert tuple(getattr(cfg, key) for key in COLUMNS.split()) == TABLE[name]
    assert (cfg.lr, cfg.warmup_steps, cfg.weight_decay, cfg.n_vocab, cfg.n_ctx) == (2.5e-4, 2000, 0.01, 50257, 1024)
    assert (cfg.beta1, cfg.decay_type, cfg.decay_exponent) == (0.0 if name == "1.5B" else 0.9, "pow", 0.8)
    small = (0.0, 0.0, 0.1) if name == "PrettyBig" else (0.1, 0.1, 0.1)
    assert (cfg.embed_dropout, cfg.attn_dropout, cfg.res_dropout) == small


def test_a_file_of_2020_loads_unedited(write):
    cfg = config.load(write(FROM_2020))
    assert cfg.model_path == "gs://bucket/117M" and cfg.precision == "bfloat16" and cfg.local
    assert {key: getattr(cfg, key) for key in FROM_2020 if key != "model_dir"} == {
        key: value for key, value in FROM_2020.items() if key != "model_dir"
    }


def test_documented_defaults_hold_for_an_empty_object(write):
    cfg = config.load(write("{}", "runs/small.json"), check_files=False)
    documented = {
        "n_ctx": 1024, "n_vocab": 50257, "n_head": 12, "scale_by_depth": True, "scale_by_in": True, "precision": "float32",
        "input": "openwebtext", "lr": 0.00025, "warmup_steps": 2000, "opt_name": "adam", "weight_decay": 0.0, "beta1": 0.9,
        "beta2": 0.98, "epsilon": 1e-9, "decay_type": "pow", "decay_exponent": 0.8, "iterations": 100, "embed_dropout": 0.1,
        "attn_dropout": 0.1, "res_dropout": 0.1, "local": False, "fixed_attn_block_size": 128, "layer_offset": 16, "seed": 1337,
        "eval_fraction": 0.05, "minimum_size": 25, "fix_text": True, "drop_duplicates": True, "clip": 1.0, "decay": "matrices",
        "text_key": "text", "tokenizer": "gpt2", "top_k": 0, "model_path": "models/small",
    }  # fmt: skip
    assert {key: getattr(cfg, key) for key in documented} == documented
    assert list(Path().iterdir()) == [Path("runs")], "loading must create nothing"


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"n_embd": 1600}, "n_head", 25),
        ({"n_embd": 200}, "n_head", 2),
        ({"n_embd": 7}, "n_head", 1),
        ({"opt_name": "adafactor"}, "beta1", 0.0),
        ({"opt_name": "sgd"}, "beta1", 0.0),
        ({"opt_name": "adafactor", "beta1": 0.5}, "beta1", 0.5),
        ({"max_steps": 1000}, "warmup_steps", 100),
        ({"train_batch_size": 6}, "eval_batch_size", 6),
        ({"train_steps": 6}, "save_steps", 6),
        ({"tokenizer": "byte"}, "n_vocab", 257),
        ({"tokenizer": "char"}, "n_vocab", None),
        ({"encoder_path": "other"}, "n_vocab", None),
        ({"text": "a"}, "input", "tfrecords"),
        ({"text": "a"}, "text", ["a"]),
        ({"datasets": [{"train": "a"}]}, "input", "tfrecords"),
        ({"input": "my.data:stream"}, "input", "my.data:stream"),
        ({"n_ctx": 1e3}, "n_ctx", 1000),
        ({"res_dropout": 0}, "res_dropout", 0.0),
        ({"eval_steps": "all"}, "eval_steps", "all"),
        ({"recompute": 3}, "recompute", 3),
        ({"attention_types": [[["global", "local"], 6]]}, "attention_types", [(["global", "local"], 6)]),
        ({"$schema": "x.json"}, "n_layer", 12),
    ],
)
def test_values_that_follow_from_others_and_other_ways_to_write_them(write, given, key, value):
    assert getattr(config.load(write(given), check_files=False), key) == value


def test_a_folder_with_a_ledger_is_read_as_tfrecords(write):
    write("{}", "data/mine/ledger.json")
    assert config.load(write({"data_path": "data/mine"})).input == "tfrecords"


def test_the_lineages_list_form_of_a_dataset_equals_the_object(write):
    as_list = config.load(write({"datasets": [["t*", "e*", 42, "random_sample", 0.3]]}), check_files=False)
    part = {"train": ["t*"], "eval": ["e*"], "stitch": 42, "mode": "random_sample", "weight": 0.3}
    as_object = config.load(write({"datasets": [part]}), check_files=False)
    assert as_list == as_object and as_list.datasets[0].weight == 0.3


WRONG = [
    ({"n_heads": 4}, 'unknown key "n_heads"', '"n_head"'),
    ({"block_size": 4}, 'unknown key "block_size"', '"n_ctx"'),
    ({"data-path": "x"}, 'unknown key "data-path"', '"data_path"'),
    ({"n_layer": "12"}, 'n_layer must be a whole number from 1 to 2147483647, found "12" (text)', "12"),
    ({"n_layer": True}, "found true", ""),
    ({"n_layer": 2.5}, "found 2.5", "2"),
    ({"n_layer": -3}, "found -3", "1"),
    ({"n_layer": 10**15}, "found 1000000000000000", "2147483647"),
    ({"n_layer": None}, "found null", ""),
    ({"n_layer": [1]}, "found [1] (a list)", ""),
    ({"lr": "fast"}, "lr must be a number above 0", ""),
    ({"lr": 0}, "lr must be a number above 0", ""),
    ({"res_dropout": 1.0}, "res_dropout must be a number of at least 0 and below 1", ""),
    ({"res_dropout": -0.5}, "found -0.5", "0"),
    ({"top_k": -1}, "top_k must be", "0"),
    ({"local": 1}, "local must be true or false, found 1", "true"),
    ({"local": "no"}, "local must be true or false", "false"),
    ({"opt_name": "Adamw"}, 'opt_name must be one of "adam"', '"adam"'),
    ({"model": "gpt2"}, 'model must be one of "GPT2"', '"GPT2"'),
    ({"tokenizer": "bpe:12"}, "tokenizer must be", ""),
    ({"input": "openwebtext_longbiassed"}, "input must be", '"openwebtext_longbiased"'),
    ({"text": []}, None, None),
    ({"text": ["a", ""]}, "text must be a path, a glob, or a list of them", ""),
    ({"text": 3}, "text must be", ""),
    ({"recompute": "blocks"}, "recompute must be", '"block"'),
    ({"eval_steps": -1}, "eval_steps must be", ""),
    ({"attention_types": [[["globel"], 12]]}, "attention_types must be", ""),
    ({"datasets": {"train": "x"}}, "datasets must be a list", ""),
    ({"datasets": ["x"]}, "datasets.0 must be an object", ""),
    ({"datasets": [["x", "y", 1]]}, "a list of five: train, eval, stitch, mode, weight", ""),
    ({"datasets": [{"eval": "x"}]}, "train is missing", ""),
    ({"datasets": [{"train": "x", "wieght": 1}]}, 'unknown key "wieght"', '"weight"'),
    ({"datasets": [{"train": "x", "weight": 0}]}, "datasets.0.weight must be a number above 0", ""),
    ({"datasets": [["x", [], 1, "packd", 1]]}, "datasets.0.mode must be one of", '"packed"'),
    # Together
    ({"n_embd": 768, "n_head": 10}, "10 heads do not divide a width of 768", '"n_head": 8'),
    ({"local": True, "n_ctx": 1000}, "fixed_attn_block_size 128 does not divide n_ctx 1000", "125"),
    ({"local": True, "n_ctx": 64}, "fixed_attn_block_size 128 does not divide n_ctx 64", "64"),
    ({"warmup_steps": 11, "max_steps": 10}, "warmup_steps 11 is more than max_steps 10", "1"),
    ({"min_lr": 1.0}, "min_lr 1 is more than lr 0.00025", "2.5e-05"),
    ({"attention_types": [[["global", "local"], 5]]}, "covers 10 blocks, but n_layer is 12", '"n_layer": 10'),
    ({"attention_types": [[["local"], 12]], "local": True}, "both say where", '"local": false'),
    ({"text": "a", "datasets": [{"train": "b"}]}, "text and datasets are both given", ""),
    ({"text": "a", "input": "openwebtext"}, "text would not be used", '"tfrecords"'),
    ({"n_vocab": 50000}, "makes 50257 different ids", '"n_vocab": 50257'),
    ({"n_vocab": 100, "tokenizer": "bpe:500"}, "makes 500 different ids", '"n_vocab": 500'),
    ({"train_batch_size": 32, "accumulate": 5}, "cannot be worked in 5 equal parts", "4"),
    ({"recompute": 13}, "recompute is 13 blocks at a time", "12"),
    ({"datasets": [{"train": "a*", "eval": "b*"}, {"train": "c", "eval": ["a*"]}]}, '"a*" is both training', ""),
]


@pytest.mark.parametrize(("values", "what", "near"), WRONG)
def test_one_mistake_is_one_clear_problem(write, values, what, near):
    if what is None:
        config.load(write(values), check_files=False)
        return
    (problem,) = mistakes(write(values))
    assert what in problem.what
    assert problem.nearest == near
    assert problem.fix
    # Every mistake was written in the file, so its line must be named; the key is the last part of the JSON path.
    line = int(problem.where.split("line ")[1].split(",")[0])
    assert problem.where.startswith("my.json, line ") and ", $." in problem.where
    assert any(
        key in Path("my.json").read_text("utf-8").split("\n")[line - 1]
        for key in [*values, "train", "weight", "[", "{", '"']
    )


def test_every_mistake_is_in_one_report(write):
    name = write(
        '{\n"n_layer": "two",\n"n_heads": 3, // heads\n"n_embd": 100, "n_head": 7,\n"lr": NaN,\n"min_lr": 9,\n}'
    )
    found = mistakes(name, "seed=abc", "top_kk=3", "text")
    lines = [(p.what.split(",")[0], p.where) for p in found]
    assert [where for _, where in lines] == [
        "my.json, line 3, column 15",
        "my.json, line 5, column 7, $.lr",
        "my.json, line 6, column 12",
        "--set text",
        "my.json, line 2, column 1, $.n_layer",
        "--set seed=abc",
        "my.json, line 3, column 1, $.n_heads",
        "--set top_kk=3",
        "my.json, line 4, column 16, $.n_head",
    ], lines
    # min_lr 9 is not compared with the lr that could not be read.
    assert not any("min_lr" in p.what for p in found)


def test_one_key_under_two_names_is_a_mistake(write):
    (problem,) = mistakes(write({"model_path": "a", "model_dir": "b"}))
    assert "are one key" in problem.what and "$.model_dir" in problem.where


def test_missing_files_are_named_with_their_neighbours(write, tmp_path):
    write("x", "novels/one.txt")
    name = write(
        {
            "text": ["novel", "novels/*.md", "novels", "novels/*.txt", "gs://bucket/none"],
            "encoder_path": "enc",
            "init_from": "old",
        }
    )
    found = mistakes(name, check_files=True)
    assert [p.what for p in found] == [
        'text: nothing is at "novel"',
        'text: nothing is at "novels/*.md"',
        'encoder_path: nothing is at "enc"',
        'init_from: nothing is at "old"',
    ]
    assert found[0].nearest == '"novels"' and found[2].fix == "tfgpt download encoder"
    assert config.load(name, check_files=False).text[0] == "novel"


def test_no_data_at_all_is_a_mistake(write):
    assert "no training data" in mistakes(write("{}"), check_files=True)[0].what
    assert "data_path: nothing" in mistakes(write({"data_path": "owt"}), check_files=True)[0].what
    assert config.load(write({"input": "mine:f"})).input == "mine:f"


def test_a_file_that_is_trained_and_evaluated_on_is_named(write, tmp_path):
    for i in range(3):
        write("x", f"d/a_{i}.tfrecords")
    Path("link.tfrecords").symlink_to(tmp_path / "d" / "a_1.tfrecords")
    parts = [
        {"train": "d/a_*.tfrecords", "eval": "d/*_2.tfrecords"},
        {"train": "d/a_0.tfrecords", "eval": "link.tfrecords"},
    ]
    first, second = mistakes(write({"datasets": parts}), check_files=True)
    assert (
        "1 file(s) would be both" in first.what
        and "a_2.tfrecords" in first.what
        and "$.datasets[0].eval" in first.where
    )
    assert "link.tfrecords" in second.what and "$.datasets[1].eval" in second.where
    good = [{"train": "d/a_[01].tfrecords", "eval": "d/a_2.tfrecords"}]
    assert config.load(write({"datasets": good})).datasets[0].eval == ["d/a_2.tfrecords"]


def test_overrides(write):
    name = write({"datasets": [["t", "e", 3, "sample", 1], {"train": "u"}], "lr": 1e-3, "model_dir": "m"})
    settings = [
        "datasets.0.weight=2",
        "lr=1e-4",
        "lr=2e-4",
        "model_dir=a=b",
        "tokenizer=char",
        'datasets.1.eval=["x", "y"]',
        "local=true",
    ]
    loaded = config.read(name, settings, check_files=False)
    cfg = loaded.config
    assert cfg.datasets[0].weight == 2 and cfg.datasets[0].stitch == 3 and cfg.datasets[1].eval == ["x", "y"]
    assert (cfg.lr, cfg.model_path, cfg.tokenizer, cfg.local) == (2e-4, "a=b", "char", True)
    assert loaded.origins["lr"] == "--set lr=2e-4"
    assert loaded.origins["datasets"] == 'line 2, --set datasets.0.weight=2, --set datasets.1.eval=["x", "y"]'
    assert loaded.origins["n_layer"] == "default"


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("lr", "an override is key=value"),
        ("=3", "an override is key=value"),
        ("lr=", "lr must be a number"),
        ("lr=NaN", 'found "NaN" (text)'),
        ("lrr=1", 'unknown key "lrr"'),
        ("datasets.5.weight=1", 'there is no item "5"'),
        ("datasets.first.weight=1", 'there is no item "first"'),
        ("datasets.0.wait=1", 'unknown key "wait"'),
        ("n_layer.x=1", "n_layer has no parts"),
        ("missing.x=1", "missing is not there"),
        ("text=[1", "the value is not JSON"),
        ('n_layer=3, "n_head": 4', "n_layer must be"),
    ],
)
def test_a_bad_override_is_reported_as_the_user_typed_it(write, setting, what):
    name = write({"n_layer": 2, "datasets": [{"train": "t"}]})
    (problem,) = mistakes(name, setting)
    assert what in problem.what and problem.where == f"--set {setting}"


def test_an_override_mends_a_wrong_value_in_the_file(write):
    assert config.load(write({"n_layer": "x"}), ["n_layer=3"], check_files=False).n_layer == 3


def test_what_was_loaded_loads_again_unchanged(write):
    first = config.load(write({"text": "a", "attention_types": [[["local"], 12]], "datasets": []}), check_files=False)
    assert config.load(write(json.dumps(first.model_dump()), "again.json"), check_files=False) == first
    assert config.Config(**first.model_dump()) == first
    with pytest.raises(ValueError, match="frozen"):
        first.n_layer = 3


def test_a_config_made_in_python_is_checked_as_well():
    with pytest.raises(ValueError, match="heads do not divide"):
        config.Config(n_embd=100, n_head=3)
    with pytest.raises(ValueError, match="n_heads"):
        config.Config(n_heads=3)


def test_a_report_survives_its_way_between_processes(write):
    error = Problems("x", mistakes(write({"n_heads": 1})))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
