"""The catalogue as published, and whole items: from a mirror, from a folder, again, damaged, adopted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tfgpt import files
from tfgpt.errors import Failure, Problems, UserError
from tfgpt.weights import download as module
from tfgpt.weights.catalogue import CATALOGUE, File, find
from tfgpt.weights.download import LEDGER, download
from tfgpt.weights.fetch import Patience

QUICK = Patience(connect=2.0, read=2.0, tries=2, wait=0.01)
CONNOR_FILES = ["model.ckpt.data-00000-of-00001", "model.ckpt.index", "model.ckpt.meta"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with made-up weights in the layout of the sources; `.root` is its folder, `.url` its address."""
    root = tmp_path / "mirror"
    generator = random.Random(5)
    for folder, names in {
        "117M": CONNOR_FILES,
        "small": ["checkpoint", "hparams.json", "weights", "vocab.bpe"],
    }.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(generator.randbytes(20_000))
    merges = (root / "small/vocab.bpe").read_bytes()
    small = dataclasses.replace(
        CATALOGUE["124M"],
        name="small",
        path="small",
        folder="models/small",
        files=(
            File("checkpoint"),
            File("hparams.json"),
            File("weights", 20_000),
            File("vocab.bpe", 20_000, hashlib.sha256(merges).hexdigest()),
        ),
    )
    monkeypatch.setitem(CATALOGUE, "small", small)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    server.asked, server.root = [], root
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def urls(name):
    return [[f"{source}/{file.name}" for file in CATALOGUE[name].files] for source in CATALOGUE[name].sources]


# The catalogue, against the published addresses written out


@pytest.mark.parametrize("name", ["117M", "PrettyBig", "1.5B"])
def test_connors_models(name):
    base = f"https://storage.googleapis.com/connors-models/public/{name}"
    assert urls(name) == [[f"{base}/model.ckpt.{end}" for end in ("data-00000-of-00001", "index", "meta")]]
    assert CATALOGUE[name].folder == name


def test_the_encoder():
    assert urls("encoder")[0] == [
        "https://storage.googleapis.com/connors-models/public/encoder/encoder.json",
        "https://storage.googleapis.com/connors-models/public/encoder/vocab.bpe",
    ]
    assert CATALOGUE["encoder"].folder == "encoder"


def test_the_encoders_second_source_is_where_tiktoken_fetches_it_with_the_same_checksums():
    import inspect

    from tiktoken_ext import openai_public

    source = inspect.getsource(openai_public.gpt2)
    for url, file in zip(urls("encoder")[1], CATALOGUE["encoder"].files, strict=True):
        assert f'"{url}"' in source and f'"{file.sha256}"' in source


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1558M", 1_557_611_200)],
)
def test_openais_models(name, parameters):
    names = (
        "checkpoint encoder.json hparams.json model.ckpt.data-00000-of-00001 model.ckpt.index model.ckpt.meta vocab.bpe"
    )
    assert urls(name) == [
        [f"https://openaipublic.blob.core.windows.net/gpt-2/models/{name}/{file}" for file in names.split()],
        [f"https://storage.googleapis.com/gpt-2/models/{name}/{file}" for file in names.split()],
    ]
    assert CATALOGUE[name].folder == f"models/{name}"
    assert {file.name: file.size for file in CATALOGUE[name].files}["model.ckpt.data-00000-of-00001"] == 4 * parameters


def test_the_shapes_behind_the_sizes():
    def parameters(layers, width):
        block = 4 * width + (3 * width * width + 3 * width) + (width * width + width) + (8 * width * width + 5 * width)
        return 50257 * width + 1024 * width + layers * block + 2 * width

    for name, layers, width in (("124M", 12, 768), ("355M", 24, 1024), ("774M", 36, 1280), ("1558M", 48, 1600)):
        assert CATALOGUE[name].files[3].size == 4 * parameters(layers, width)
    assert CATALOGUE["PrettyBig"].files[0].about == 4 * parameters(25, 1024)


def test_shakespeare():
    assert urls("shakespeare") == [
        ["https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"]
    ]
    assert CATALOGUE["shakespeare"].files[0].local == "tinyshakespeare.txt"


def test_known_checksums_are_those_of_the_real_files(gpt2_encoder, shakespeare):
    for file in CATALOGUE["encoder"].files:
        assert (files.sha256(gpt2_encoder / file.name), files.size(gpt2_encoder / file.name)) == (
            file.sha256,
            file.size,
        )
    text = CATALOGUE["shakespeare"].files[0]
    assert (files.sha256(shakespeare), files.size(shakespeare)) == (text.sha256, text.size)


def test_every_name_stays_inside_its_folder_and_every_address_is_encrypted():
    for item in CATALOGUE.values():
        files.join("x", item.folder)
        for file in item.files:
            assert "/" not in file.name and "/" not in file.local and files.join("x", file.local).startswith("x")
        assert all(source.startswith("https://") for source in item.sources)
        assert len({file.local for file in item.files}) == len(item.files)


def test_a_misspelt_name():
    with pytest.raises(UserError) as caught:
        find("encodr")
    assert caught.value.nearest == '"encoder"' and "shakespeare" in caught.value.fix


# Whole items


def test_connors_model_from_a_mirror_has_its_checkpoint_file(mirror, tmp_path):
    folder = download("117M", base_url=mirror.url + "/", patience=QUICK)
    assert folder == Path("117M")
    for name in CONNOR_FILES:
        assert (folder / name).read_bytes() == (mirror.root / "117M" / name).read_bytes()
    assert (folder / "checkpoint").read_text() == 'model_checkpoint_path: "model.ckpt"\n'
    import tensorflow as tf

    assert tf.train.get_checkpoint_state(str(tmp_path / "117M")).model_checkpoint_path == str(
        tmp_path / "117M/model.ckpt"
    )


def test_what_is_here_and_right_is_not_fetched_again(mirror, capsys):
    folder = download("small", base_url=mirror.url, patience=QUICK)
    assert [path.split("/")[-1] for path in mirror.asked] == ["checkpoint", "hparams.json", "weights", "vocab.bpe"]
    mirror.asked.clear()
    download("small", base_url=mirror.url, patience=QUICK)
    assert mirror.asked == [] and capsys.readouterr().err.count("is here already, checksum right") == 4
    rows = json.loads((folder / LEDGER).read_text())
    assert rows["weights"]["sha256"] == hashlib.sha256((mirror.root / "small/weights").read_bytes()).hexdigest()
    assert "vocab.bpe" not in rows  # its checksum is public


@pytest.mark.parametrize("name", ["weights", "vocab.bpe", "hparams.json"])
def test_a_damaged_file_is_fetched_again_and_the_old_one_kept(mirror, name):
    folder = download("small", base_url=mirror.url, patience=QUICK)
    damaged = bytearray((folder / name).read_bytes())
    damaged[777] ^= 1
    (folder / name).write_bytes(damaged)
    mirror.asked.clear()
    download("small", base_url=mirror.url, patience=QUICK)
    assert mirror.asked == [f"/small/{name}"]
    assert (folder / name).read_bytes() == (mirror.root / "small" / name).read_bytes()
    assert (folder / f"{name}.old").read_bytes() == damaged


def test_a_users_own_file_stays_when_the_fetch_fails(mirror):
    Path("models/small").mkdir(parents=True)
    Path("models/small/vocab.bpe").write_text("my own merges")
    (mirror.root / "small/vocab.bpe").unlink()
    with pytest.raises(Failure, match="404"):
        download("small", base_url=mirror.url, patience=QUICK)
    assert Path("models/small/vocab.bpe").read_text() == "my own merges"


def test_a_broken_ledger_costs_a_fetch_and_nothing_more(mirror):
    folder = download("small", base_url=mirror.url, patience=QUICK)
    for text in ("{", "[]", '{"weights": 3}', '{"weights": {"size": "x"}}'):
        (folder / LEDGER).write_text(text)
        mirror.asked.clear()
        download("small", base_url=mirror.url, patience=QUICK)
        assert "/small/weights" in mirror.asked and "/small/vocab.bpe" not in mirror.asked


def test_killed_between_ledger_and_name_nothing_is_fetched_twice(mirror, monkeypatch):
    import os

    def die(source, target):
        if str(target).endswith("/weights"):
            raise KeyboardInterrupt
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        download("small", base_url=mirror.url, patience=QUICK)
    monkeypatch.setattr(os, "replace", real)
    folder = download("small", base_url=mirror.url, patience=QUICK)
    assert mirror.asked.count("/small/hparams.json") == 1
    assert (folder / "weights").read_bytes() == (mirror.root / "small/weights").read_bytes()


def test_from_a_folder_without_a_network(mirror, monkeypatch):
    monkeypatch.setattr(module, "fetch", None)
    laid_out = download("small", "one", from_dir=str(mirror.root))
    flat = download("small", "two", from_dir=str(mirror.root / "small"))
    for folder in (laid_out, flat):
        for file in CATALOGUE["small"].files:
            assert (folder / file.name).read_bytes() == (mirror.root / "small" / file.name).read_bytes()


def test_the_encoder_from_a_folder(gpt2_encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download("encoder", from_dir=str(gpt2_encoder)) == Path("encoder")
    assert (tmp_path / "encoder/vocab.bpe").read_bytes() == (gpt2_encoder / "vocab.bpe").read_bytes()
    assert sorted(p.name for p in (tmp_path / "encoder").iterdir()) == ["encoder.json", "vocab.bpe"]


def test_shakespeare_from_a_folder_by_either_name(shakespeare, tmp_path):
    for name in ("input.txt", "tinyshakespeare.txt"):
        source = tmp_path / f"from {name}"
        source.mkdir()
        shutil.copy(shakespeare, source / name)
        folder = download("shakespeare", str(tmp_path / f"to {name}"), from_dir=str(source))
        assert [path.name for path in folder.iterdir()] == ["tinyshakespeare.txt"]


def test_a_wrong_file_in_the_folder_is_not_taken(mirror):
    (mirror.root / "small/vocab.bpe").write_bytes(bytes(20_000))
    with pytest.raises(Failure, match="damaged or another one") as caught:
        download("small", from_dir=str(mirror.root))
    assert caught.value.where.endswith("small/vocab.bpe")
    assert not Path("models/small/vocab.bpe").exists() and Path("models/small/weights").exists()


def test_all_that_a_folder_lacks_is_said_at_once_and_nothing_is_made(mirror):
    (mirror.root / "small/vocab.bpe").unlink()
    (mirror.root / "small/weights").unlink()
    with pytest.raises(Problems) as caught:
        download("small", from_dir=str(mirror.root))
    assert "vocab.bpe is missing" in str(caught.value) and "weights is missing" in str(caught.value)
    assert not Path("models").exists()


def test_files_that_lie_there_already_can_be_adopted(mirror):
    shutil.copytree(mirror.root / "small", "models/small")
    download("small", from_dir="models/small")
    assert sorted(p.name for p in Path("models/small").iterdir()) == sorted(
        [LEDGER, "checkpoint", "hparams.json", "vocab.bpe", "weights"]
    )
    download("small", base_url=mirror.url, patience=QUICK)
    assert mirror.asked == []


def test_space_for_the_whole_is_asked_for_before_the_first_byte(mirror, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(Failure, match=r"not enough disk space for 1558M: about 6.23 GB needed"):
        download("1558M", base_url=mirror.url, patience=QUICK)
    assert mirror.asked == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "mirror.example.org"}, "no address"),
        ({"base_url": "ftp://x/y"}, "no address"),
        ({"base_url": "https://x", "from_dir": "."}, "exclude"),
        ({"from_dir": "not_there"}, "no such folder"),
        ({"output": "gs://bucket/x"}, "this machine"),
        ({"output": "a_file"}, "a file is where"),
        ({"output": "a_file/below"}, "a file is where"),
    ],
)
def test_mistakes_are_explained_before_anything_is_made(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    Path("a_file").write_text("")
    with pytest.raises(UserError, match=says) as caught:
        download("encoder", **options)
    assert caught.value.exit_code == 2 and [p.name for p in tmp_path.iterdir()] == ["a_file"]
