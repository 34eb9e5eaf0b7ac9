"""A damaged checkpoint is never used and never hides a good one; `verify` and `load` say what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil

import ml_dtypes
import numpy as np
import pytest

from tests.training.checkpoint_content import CONFIG, content, same
from tfgpt.cli import run_verb
from tfgpt.errors import Failure, UserError
from tfgpt.training import manifest, restoring
from tfgpt.training.checkpoints import Checkpoints, load, verify
from tfgpt.training.verification import shapes

FILES = [
    "weights.safetensors", "optimizer.safetensors", "config.json", "state.json", "tokenizer/vocab.bpe", "manifest.json",
]  # fmt: skip


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Waiting for a disk is slow, and only a power cut would tell the difference; that it is asked for is a test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of steps 1 and 2, to copy."""
    run = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch, Checkpoints(str(run), keep_last=5) as checkpoints:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for step in (1, 2):
            checkpoints.save(step, *content(step))
        checkpoints.wait()
    return run


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def path_of(run, step: int):
    return run / "checkpoints" / f"step-{step:08}"


def short(path):
    path.write_bytes(path.read_bytes()[:-1])


def long(path):
    path.write_bytes(path.read_bytes() + b"\0\0")


def flip(path):
    data = bytearray(path.read_bytes())
    place = random.randrange(len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


SAID = {
    short: "is 1 byte short", long: "is 2 bytes too long", flip: "differs from its checksum", empty: "short",
    garbage: "differs from its checksum", missing: "is missing", folder: "",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", SAID, ids=lambda harm: harm.__name__)
def test_the_one_before_is_taken_and_it_is_said(run, name, harm):
    harm(path_of(run, 2) / name)
    events = []
    checkpoints = Checkpoints(str(run), keep_last=1, on_event=events.append)
    assert same(checkpoints.latest(), 1)
    (event,) = events
    assert (event["event"], event["step"], event["path"]) == ("fallback", 2, str(path_of(run, 2)))
    if name != "manifest.json":
        assert event["what"].startswith(name) and SAID[harm] in event["what"]
    assert "manifest.json" in event["what"] or name != "manifest.json"
    # Both helpers for other commands see the same.
    assert same(load(str(run)), 1)
    assert [report.good for report in verify(str(run))] == [True, False]
    # What was not whole does not count as one of the newest that are kept, and goes when there is a new one.
    checkpoints.save(3, *content(3), wait=True)
    assert checkpoints.steps() == [3] or harm is folder
    assert same(Checkpoints(str(run), keep_last=1).latest(), 3)


def test_every_byte_of_a_manifest_counts(run):
    """Nothing in a manifest, its own checksum included, can change unnoticed."""
    path = path_of(run, 2) / "manifest.json"
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(manifest.Damaged):
            manifest.read(str(path.parent))


def test_an_empty_folder_and_a_folder_without_a_manifest(run, capsys):
    path_of(run, 3).mkdir()
    events = []
    assert same(Checkpoints(str(run), keep_last=1, on_event=events.append).latest(), 2)
    assert [event["what"] for event in events] == ["the folder is empty"]
    (path_of(run, 3) / "weights.safetensors").write_bytes(b"x")
    Checkpoints(str(run), keep_last=1).latest()
    assert "fallback at step 3: manifest.json is missing" in capsys.readouterr().err


def test_an_old_damaged_one_is_not_looked_at(run):
    missing(path_of(run, 1) / "manifest.json")
    checkpoints = Checkpoints(str(run), keep_last=2, on_event=lambda event: pytest.fail(str(event)))
    assert same(checkpoints.latest(), 2)


def test_none_is_good(run):
    short(path_of(run, 2) / "weights.safetensors"), missing(path_of(run, 1) / "state.json")
    with pytest.raises(Failure) as caught:
        Checkpoints(str(run), keep_last=1, on_event=lambda event: None).latest()
    assert "step-00000002: weights.safetensors is 1 byte short" in str(caught.value)
    assert "step-00000001: state.json is missing" in str(caught.value)
    with pytest.raises(Failure):
        load(str(run))


def test_a_copy_under_the_name_of_another_step(run):
    shutil.copytree(path_of(run, 1), path_of(run, 7))
    problems = {report.path: report.problems for report in verify(str(run))}
    assert problems[str(path_of(run, 7))] == ["the folder is named for step 7, but holds step 1"]
    assert not problems[str(path_of(run, 2))] and not problems[str(path_of(run, 1))]
    shutil.rmtree(path_of(run, 2))
    assert Checkpoints(str(run), keep_last=1, on_event=lambda event: None).latest().path == str(path_of(run, 1))


def test_a_bad_one_does_not_take_the_place_of_a_good_one(run):
    """Of the two that are to be kept, one must not be the one that was just found to be damaged inside."""
    flip(path_of(run, 2) / "weights.safetensors")
    checkpoints = Checkpoints(str(run), keep_last=2, on_event=lambda event: None)
    checkpoints.latest()
    checkpoints.save(3, *content(3), wait=True)
    assert checkpoints.steps() == [1, 3]


def test_a_folder_that_cannot_be_read_just_now_is_passed_over_but_stays(run, monkeypatch):
    def refuse(folder, name, part, advance=int):
        if "step-00000002" in folder:
            raise manifest.Unreadable(f"{name} cannot be read: Input/output error")
        return true(folder, name, part, advance)

    true = manifest.read_part
    checkpoints = Checkpoints(str(run), keep_last=3, on_event=lambda event: None)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "read_part", refuse)
        assert same(checkpoints.latest(), 1)
    checkpoints.save(3, *content(3), wait=True)
    assert checkpoints.steps() == [1, 2, 3]


def test_a_newer_format_is_neither_skipped_nor_deleted(run):
    path = path_of(run, 2) / "manifest.json"
    value = json.loads(path.read_bytes())
    del value["sha256"]
    value["format"] = "tfgpt-checkpoint-2"
    value["sha256"] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(value))
    checkpoints = Checkpoints(str(run), keep_last=1)
    with pytest.raises(UserError, match="tfgpt-checkpoint-2"):
        checkpoints.latest()
    checkpoints.save(3, *content(3), wait=True)
    assert path.exists()


def test_a_reader_beside_a_running_training(run, monkeypatch):
    """The checkpoint gives way to a newer one between looking and reading."""
    shutil.rmtree(path_of(run, 1))
    true, once = restoring.read, []

    def read(folder, **keys):
        if not once:
            once.append(folder)
            Checkpoints(str(run), keep_last=1).save(3, *content(3), wait=True)
        return true(folder, **keys)

    monkeypatch.setattr(restoring, "read", read)
    assert same(load(str(run)), 3) and once == [str(path_of(run, 2))]


def test_load_by_every_name_and_without_the_optimizer(run, tmp_path, monkeypatch):
    for name in (run, f"{run}/", run / "checkpoints", path_of(run, 2), f"{path_of(run, 2)}/"):
        assert same(load(str(name)), 2)
    shutil.copytree(path_of(run, 1), tmp_path / "my_model")
    assert same(load(str(tmp_path / "my_model")), 1)
    monkeypatch.chdir(path_of(run, 1))
    assert same(load("."), 1)
    flip(path_of(run, 2) / "optimizer.safetensors")
    light = load(str(path_of(run, 2)), optimizer=False)
    assert light.optimizer == {} and np.array_equal(light.weights["wpe.weight"], content(2)[0]["wpe.weight"])
    with pytest.raises(Failure, match="optimizer.safetensors differs"):
        load(str(path_of(run, 2)))
    short(path_of(run, 2) / "optimizer.safetensors")
    with pytest.raises(Failure, match="optimizer.safetensors is 1 byte short"):
        load(str(path_of(run, 2)), optimizer=False)


def test_loaded_arrays_can_be_written_to(run):
    load(str(run)).weights["wpe.weight"] += 1


@pytest.mark.parametrize("name, said", [("nowhere", "no such folder"), ("", "no checkpoint in this folder")])
def test_no_checkpoint_there(tmp_path, name, said):
    for function in (load, verify):
        with pytest.raises(UserError, match=said):
            function(str(tmp_path / name))


def test_no_best_yet(run):
    with pytest.raises(UserError, match="marked as the best"):
        load(str(run), best=True)


@pytest.mark.parametrize("text", ["", "[{", "{}", "7", '[{"step": 1}]', "[1]"])
def test_a_torn_mark_is_no_mark(run, text):
    (run / "checkpoints" / "best.json").write_text(text)
    checkpoints = Checkpoints(str(run), keep_last=1)
    assert checkpoints.best() is None
    checkpoints.mark_best(3, 1.0)
    checkpoints.save(3, *content(3), wait=True)
    assert Checkpoints(str(run), keep_last=1).best() == (3, 1.0)


def test_verify_finds_what_no_checksum_can(tmp_path):
    """Saved faithfully, and wrong all the same: numbers that are not finite, weights of another shape or name."""
    weights, optimizer, state, config, _ = content(1)
    weights["wpe.weight"][1, 2] = np.nan
    weights["h.0.ln_1.bias"] = weights["h.0.ln_1.bias"][:5]
    weights["more"] = weights.pop("ln_f.bias")
    optimizer["brain"] = np.array([1, np.inf, np.nan], ml_dtypes.bfloat16)
    checkpoints = Checkpoints(str(tmp_path), keep_last=1)
    checkpoints.save(1, weights, optimizer, state, config, None, wait=True)
    (report,) = verify(str(tmp_path))
    assert sorted(report.problems) == [
        "h.0.ln_1.bias is [5], but the configuration calls for [8]",
        "optimizer.safetensors: 2 of 3 numbers in brain are not finite",
        "weights.safetensors has more, which the configuration does not call for",
        "weights.safetensors lacks ln_f.bias",
        "weights.safetensors: 1 of 32 numbers in wpe.weight are not finite",
    ]


def test_verify_names_every_bad_file_at_once(run):
    short(path_of(run, 2) / "weights.safetensors"), missing(path_of(run, 2) / "tokenizer/vocab.bpe")
    assert verify(str(path_of(run, 2)))[0].problems == [
        "weights.safetensors is 1 byte short",
        "tokenizer/vocab.bpe is missing",
    ]


def test_shapes_are_those_of_transformers_gpt2():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = {"n_layer": 2, "n_embd": 24, "n_ctx": 12, "n_vocab": 100, "vocab_multiple": 64}
    with torch.device("meta"):
        model = transformers.GPT2Model(
            transformers.GPT2Config(n_layer=2, n_embd=24, n_head=2, n_positions=12, vocab_size=128)
        )
    assert shapes(config) == {name: tuple(value.shape) for name, value in model.named_parameters()}


def said(capsys, *words) -> tuple[int, str]:
    code = run_verb("tfgpt.cli.verify", [str(word) for word in words], prog="tfgpt verify")
    out = capsys.readouterr()
    return code, out.out + out.err


def test_the_verb(run, capsys):
    with Checkpoints(str(run), keep_last=5) as checkpoints:
        checkpoints.mark_best(3, 1.5)
        checkpoints.save(3, *content(3))
    code, text = said(capsys, run)
    assert code == 0 and text.count("✓") == 3 and "3 of 3 are good" in text
    (best,) = [line for line in text.splitlines() if line.endswith("best")]
    assert best.startswith("✓ step 3") and "MB" in best
    short(path_of(run, 2) / "optimizer.safetensors")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, text = said(capsys, run)
    assert code == 1 and "✗ step 2" in text and "\n    optimizer.safetensors is 1 byte short\n" in text
    assert "2 of 3 are good; the newest good one is of step 3" in text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert said(capsys, path_of(run, 2))[0] == 1 and said(capsys, path_of(run, 3))[0] == 0
    code, text = said(capsys, run / "none")
    assert code == 2 and "no such folder" in text and "Traceback" not in text


def test_the_verbs_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit):
        said(capsys, "--help")
    assert capsys.readouterr().out.rstrip().endswith("example:\n\n  tfgpt verify models/my_model")


def test_config_content_is_what_the_schema_says(run):
    assert load(str(run)).config == CONFIG and os.path.exists(path_of(run, 2) / "config.json")
