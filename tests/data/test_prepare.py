"""From a configuration to files: text is encoded once, and known by its content."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.data.conftest import contents, write_texts
from tfgpt import config, files
from tfgpt.cli import main
from tfgpt.config import Config
from tfgpt.data import prepare
from tfgpt.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings(texts, **values) -> Config:
    return Config(text=[str(texts)], tokenizer="byte", n_embd=64, **values)


def test_text_is_encoded_on_first_use_and_known_by_its_content(texts, tmp_path, cache):
    (first,) = prepare.prepare(settings(texts))
    assert first.ledger and first.train and all(map(files.exists, first.train + first.eval))
    before = contents(cache)
    for path in texts.rglob("*.txt"):
        os.utime(path, (1, 1))
    shutil.copytree(texts, tmp_path / "copy")
    assert prepare.prepare(settings(texts)) == [first] == prepare.prepare(settings(tmp_path / "copy"))
    assert contents(cache) == before
    (texts / "one-more.txt").write_text("another document " * 20)
    (other,) = prepare.prepare(settings(texts))
    assert other.folder != first.folder and other.ledger.identity() != first.ledger.identity()


def test_settings_make_another_data_set(texts):
    folders = {
        prepare.encode_text(settings(texts, **values))
        for values in ({}, {"minimum_size": 3}, {"eval_fraction": 0.2}, {"fix_text": False}, {"drop_duplicates": False})
    }
    assert len(folders) == 5


def test_data_path_keeps_the_encoded_text(texts, tmp_path):
    (part,) = prepare.prepare(settings(texts, data_path=str(tmp_path / "mine")))
    assert part.folder == str(tmp_path / "mine") and (tmp_path / "mine" / "ledger.json").exists()
    (alone,) = prepare.prepare(Config(data_path=str(tmp_path / "mine"), n_embd=64))
    assert alone.train == part.train and alone.ledger == part.ledger


def test_mixtures_with_weights_and_globs(texts, tmp_path):
    prepare.encode_text(settings(texts, data_path=str(tmp_path / "a")))
    parts = prepare.prepare(
        Config(
            n_embd=64,
            datasets=[
                {
                    "train": f"{tmp_path}/a/text_*.tfrecords",
                    "eval": f"{tmp_path}/a/text-eval_*.tfrecords",
                    "weight": 0.3,
                },
                [f"{tmp_path}/a/text_0.tfrecords", f"{tmp_path}/a/text-eval_0.tfrecords", 9, "random_sample", 0.7],
            ],
        )
    )
    assert [(p.weight, p.mode, p.stitch) for p in parts] == [(0.3, "packed", None), (0.7, "random_sample", 9)]
    assert parts[0].train == (f"{tmp_path}/a/text_0.tfrecords",)
    with pytest.raises(UserError, match="no file matches"):
        prepare.prepare(Config(n_embd=64, datasets=[{"train": f"{tmp_path}/none_*"}]))


def test_the_seeds_numbered_files(tmp_path):
    train, held = prepare.OPENWEBTEXT_TRAIN, prepare.OPENWEBTEXT_EVAL
    assert len(train) == 79 and len(held) == 13 and 32 not in train + held and not set(train) & set(held)
    for number in range(93):
        (tmp_path / f"openwebtext-newspaper_{number}.tfrecords").touch()
    (part,) = prepare.prepare(Config(input="openwebtext", data_path=str(tmp_path), n_embd=64))
    assert len(part.train) == 79 and len(part.eval) == 13 and part.stitch == 42
    with pytest.raises(UserError, match="92 of the 92 files of openwebtext_long are missing"):
        prepare.prepare(Config(input="openwebtext_long", data_path=str(tmp_path), n_embd=64))


def test_an_input_function_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_input.py").write_text("def batches(params, eval=False):\n    return [params['n_ctx'], eval]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    function = prepare.input_function("my_input:batches")
    assert function({"n_ctx": 8}, eval=True) == [8, True]
    for wrong, said in (
        ("my_input:batch", "has no function"),
        ("no_such_module:f", "no module"),
        ("json:__doc__", "not a function"),
    ):
        with pytest.raises(UserError, match=said):
            prepare.input_function(wrong)


def test_main_py_with_a_json_file(texts, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"text": str(texts), "tokenizer": "bpe:300", "n_embd": 64, "n_layer": 2}))
    assert main(["prepare", "--model", str(path)]) == 0
    out = capsys.readouterr().out
    assert "tokens" in out and "next:" in out
    assert main(["prepare", "--model", str(path), "--set", "n_head=7"]) == 2
    assert "n_head" in capsys.readouterr().err


@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_loads(name):
    loaded = config.load(name, check_files=False)
    assert loaded.n_embd % loaded.n_head == 0


def test_a_bucket_holds_the_texts_and_takes_the_data(texts, tmp_path, bucket):
    from tests.data.conftest import run

    for path in sorted(texts.rglob("*.txt")):
        files.write_bytes(f"{bucket}/texts/{path.relative_to(texts).as_posix()}", path.read_bytes())
    local = run(texts, tmp_path / "local")
    remote = run(f"{bucket}/texts", f"{bucket}/data")
    assert remote.splits == local.splits, "the same shards to the last byte"
    from tfgpt.data import check

    report = check.check(f"{bucket}/data")
    assert report.faults == [] and report.records == sum(local.totals(s)["records"] for s in local.splits)
    before = [(path, files.stat(path).version) for path, _ in files.walk(f"{bucket}/data")]
    assert run(f"{bucket}/texts", f"{bucket}/data") == remote
    assert [(path, files.stat(path).version) for path, _ in files.walk(f"{bucket}/data")] == before, (
        "nothing is sent twice"
    )
    with pytest.raises(UserError, match="finished data set"):
        run(f"{bucket}/texts", f"{bucket}/data", drop_duplicates=False)


def test_presets_are_not_changed_by_a_folder_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_texts(tmp_path / "here", 1))
    (tmp_path / "here" / "117M").mkdir()
    assert config.load("117M", check_files=False).n_layer == 12


def test_a_changed_text_with_a_data_path_of_its_own_says_what_to_do(texts, tmp_path):
    prepare.encode_text(settings(texts, data_path=str(tmp_path / "mine")))
    before = contents(tmp_path / "mine")
    (texts / "one-more.txt").write_text("another document " * 20)
    with pytest.raises(UserError) as caught:
        prepare.encode_text(settings(texts, data_path=str(tmp_path / "mine")))
    assert "delete" in caught.value.fix and "--restart" not in caught.value.fix
    assert contents(tmp_path / "mine") == before


def test_a_file_that_changes_its_kind_is_another_input(texts):
    first = prepare.encode_text(settings(texts))
    path = next(texts.glob("*.txt"))
    path.rename(path.with_suffix(".md"))
    assert prepare.encode_text(settings(texts)) == first
    path.with_suffix(".md").rename(path.with_suffix(".chat"))
    assert prepare.encode_text(settings(texts)) != first


def test_a_module_beside_the_user_is_found_and_a_broken_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "beside_me.py").write_text("def batches(params, eval=False):\n    return 7\n")
    (tmp_path / "broken_one.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    assert prepare.input_function("beside_me:batches")({}) == 7
    with pytest.raises(UserError, match='"broken_one" cannot be imported: ZeroDivisionError'):
        prepare.input_function("broken_one:batches")
