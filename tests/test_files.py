"""Local and gs:// paths: one behaviour for both, whole writes, and what happens when the process or the disk gives out."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfgpt import buckets, files
from tfgpt.errors import Failure, UserError

TREE = {
    "a.txt": b"alpha",
    "a/b.txt": b"beta",
    "a/deep/c.txt": b"gamma" * 9,
    "a-b/d.jsonl": b"{}",
    "odd [1]/e*.txt": b"signs",
    "é/ü.txt": "übung".encode(),
    ".hidden/f.txt": b"dot",
    "a/.g.txt": b"dot file",
}


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path):
    """A folder on this machine, and one in a bucket."""
    return str(tmp_path / "here") if request.param == "local" else request.getfixturevalue("bucket") + "/here"


def plant(place, tree=TREE):
    for name, content in tree.items():
        path = files.join(place, name)
        files.make_folder(path.rpartition("/")[0])
        files.write_bytes(path, content)


def run(code, *arguments, **kwargs):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, **kwargs)


# One behaviour for both kinds of path


def test_what_is_written_is_read(place):
    plant(place)
    path = files.join(place, "a/deep/c.txt")
    assert files.read_bytes(path) == TREE["a/deep/c.txt"]
    assert files.size(path) == 45
    assert files.sha256(path) == hashlib.sha256(TREE["a/deep/c.txt"]).hexdigest()
    assert files.exists(path) and files.exists(files.join(place, "a")) and not files.exists(files.join(place, "a/z"))
    assert files.is_folder(files.join(place, "a")) and not files.is_folder(path)
    files.write_text(path, "größer\n")
    assert files.read_bytes(path) == b"gr\xc3\xb6\xc3\x9fer\n"


def test_walk_has_every_file_once_in_the_same_order_everywhere(place):
    plant(place)
    found = list(files.walk(place))
    assert found == sorted((files.join(place, name), len(content)) for name, content in TREE.items())
    assert list(files.walk(files.join(place, "a.txt"))) == [(files.join(place, "a.txt"), 5)]
    with pytest.raises(FileNotFoundError):
        list(files.walk(files.join(place, "a.txt.not")))


@pytest.mark.parametrize(
    "pattern",
    ["*", "a*", "?.txt", "[a-c].txt", "[!b-z].txt", "a/**", "**/*.txt", "**", "a/**/*.txt", "**/.*", ".*/*", "*/*.txt",
     "[a", "a[!x]b.txt", "é/*", "odd [[]1]/*", "*b/*", "a/b.txt", "a", "nothing*"],
)  # fmt: skip
@pytest.mark.parametrize("folders", [False, True])
def test_globs_mean_in_a_bucket_what_they_mean_to_python(tmp_path, bucket, pattern, folders):
    plant(str(tmp_path))
    plant(bucket)
    reference = {os.path.relpath(p, tmp_path) for p in glob.glob(str(tmp_path / pattern), recursive=True)} - {"."}
    wanted = sorted(p for p in reference if folders or not (tmp_path / p).is_dir())
    assert [
        os.path.relpath(p, tmp_path) for p in files.expand(tmp_path / pattern, folders=folders) if p != str(tmp_path)
    ] == wanted
    assert [p.removeprefix("gs://bucket/") for p in files.expand(f"{bucket}/{pattern}", folders=folders)] == wanted


def test_a_path_with_glob_signs_in_its_name_is_itself(tmp_path):
    plant(str(tmp_path))
    assert files.expand(tmp_path / "odd [1]/e*.txt") == [str(tmp_path / "odd [1]/e*.txt")]
    assert files.expand(tmp_path / "odd [1]") == []


def test_a_stream_starts_anywhere(place, monkeypatch):
    data = random.Random(1).randbytes(10_007)
    path = files.join(place, "r.bin")
    files.make_folder(place)
    files.write_bytes(path, data)
    monkeypatch.setattr(buckets, "PIECE", 1000)
    for start in (0, 1, 999, 1000, 9999, 10_007, 20_000):
        with files.open_read(path, start) as stream:
            first = stream.read(1500)
            assert first == data[start : start + 1500]
            assert stream.read() == data[start + 1500 :]
    with files.open_read(path) as stream:
        stream.seek(-7, io.SEEK_END)
        assert stream.read() == data[-7:]


def test_a_failed_block_leaves_the_old_content_and_nothing_beside_it(place):
    files.make_folder(place)
    path = files.join(place, "kept.txt")
    files.write_text(path, "old")
    for mode, piece in (("wb", b"n" * 100), ("w", "n" * 100)):
        with (
            pytest.raises(KeyError),
            files.atomic_writer(path, mode, **({"encoding": "utf-8"} if mode == "w" else {})) as stream,
        ):
            stream.write(piece)
            raise KeyError("the user's own mistake")
    assert files.read_bytes(path) == b"old"
    assert [name for name, _ in files.walk(place)] == [path]


def test_text_is_written_in_the_encoding_asked_for(place):
    files.make_folder(place)
    with files.atomic_writer(files.join(place, "t"), "w", encoding="utf-16-le", newline="\n") as stream:
        stream.write("ä\n")
    assert files.read_bytes(files.join(place, "t")) == "ä\n".encode("utf-16-le")


def test_copies_moves_and_removals(place, tmp_path):
    local, back = tmp_path / "local.bin", tmp_path / "back.bin"
    local.write_bytes(random.Random(2).randbytes(3_000_000))
    files.make_folder(place)
    one, two = files.join(place, "one"), files.join(place, "two")
    files.copy_in(local, one)
    files.write_bytes(two, b"to be replaced")
    files.move(one, two)
    assert not files.exists(one)
    files.copy_out(two, back)
    assert back.read_bytes() == local.read_bytes()
    files.remove(two)
    files.remove(two)
    assert not files.exists(two)


def test_the_version_changes_with_the_content(place):
    files.make_folder(place)
    path = files.join(place, "v")
    files.write_bytes(path, b"1")
    before = files.stat(path)
    assert files.stat(path) == before
    time.sleep(0.02)
    files.write_bytes(path, b"2")
    assert files.stat(path).size == before.size and files.stat(path).version != before.version


def test_missing_files_are_missing_in_the_same_way(place, tmp_path):
    for action in (files.read_bytes, files.stat, files.sha256, lambda p: files.copy_out(p, tmp_path / "x")):
        with pytest.raises(FileNotFoundError) as caught:
            action(files.join(place, "none"))
        assert str(caught.value.filename).endswith("none")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", "gs://other/x", "a\0b"])
def test_join_never_leaves_its_folder(part, tmp_path):
    for base in (tmp_path, "gs://bucket/data"):
        with pytest.raises(UserError, match="leads out"):
            files.join(base, part)


# Buckets alone


def test_pathlib_does_not_break_an_address():
    assert files.text_of(Path("gs://bucket/a") / "b") == "gs://bucket/a/b"
    assert files.is_remote(Path("gs://bucket/a")) and not files.is_remote("gs/bucket") and not files.is_remote("/gs:/x")


def test_tensorflow_is_given_the_very_same_strings(bucket):
    import tensorflow as tf

    plant(bucket + "/data")
    assert "gs" in tf.io.gfile.get_registered_schemes()
    for path, _ in files.walk(bucket + "/data"):
        inside = path.removeprefix("gs://bucket/data/")
        assert path == tf.io.gfile.join("gs://bucket", "data", inside) == files.join(bucket, "data", inside)


def test_a_damaged_copy_is_refused_and_not_left_behind(bucket, tmp_path, monkeypatch):
    files.write_bytes(bucket + "/x", b"content")
    real = buckets._Reader._range
    monkeypatch.setattr(buckets._Reader, "_range", lambda self, amount: real(self, amount).replace(b"t", b"T"))
    (tmp_path / "x").write_text("old")
    with pytest.raises(Failure, match="differs"):
        files.copy_out(bucket + "/x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_large_upload_that_fails_half_way_leaves_the_old_object(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "PIECE", 256 << 10)
    files.write_bytes(bucket + "/x", b"old")
    with pytest.raises(KeyError), files.atomic_writer(bucket + "/x") as stream:
        stream.write(bytes(1 << 20))
        raise KeyError
    assert files.read_bytes(bucket + "/x") == b"old"
    data = random.Random(3).randbytes(1_000_003)
    files.write_bytes(bucket + "/x", data)
    assert files.read_bytes(bucket + "/x") == data


def test_a_stream_never_mixes_two_versions(bucket, monkeypatch):
    files.write_bytes(bucket + "/x", b"1" * 100)
    monkeypatch.setattr(buckets, "PIECE", 10)
    asked = []
    from google.cloud.storage import Blob

    real = Blob._get_download_url
    monkeypatch.setattr(Blob, "_get_download_url", lambda *a, **k: asked.append(real(*a, **k)) or asked[-1])
    with files.open_read(bucket + "/x") as stream:
        stream.read(30)
    assert asked and all(f"generation={files.stat(bucket + '/x').version}" in url for url in asked)


def test_objects_that_the_service_would_unpack_are_refused(bucket):
    files.write_bytes(bucket + "/x", b"x")
    blob = buckets._handle(bucket + "/x")
    blob.content_encoding = "gzip"
    blob.patch()
    with pytest.raises(UserError, match="Content-Encoding"):
        files.read_bytes(bucket + "/x")


def test_folder_marks_of_the_console_are_no_files(bucket):
    buckets._client().bucket("bucket").blob("d/").upload_from_string(b"")
    files.write_bytes(bucket + "/d/x", b"x")
    assert list(files.walk(bucket)) == [("gs://bucket/d/x", 1)]


@pytest.mark.parametrize("path", ["gs://", "gs:///x", "gs://b*/x"])
def test_addresses_without_a_bucket_are_explained(path, bucket):
    with pytest.raises(UserError, match="bucket"):
        files.expand(path)


def test_a_folder_cannot_be_written_as_a_file(bucket):
    with pytest.raises(UserError, match="folder"):
        files.write_bytes(bucket + "/d/", b"")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    buckets._connect.cache_clear()
    with pytest.raises(UserError) as caught:
        files.read_bytes("gs://bucket/x")
    assert 'pip install "tfgpt[gcs]"' in caught.value.fix and caught.value.exit_code == 2
    buckets._connect.cache_clear()


def test_without_credentials_the_login_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UserError) as caught:
        files.exists("gs://bucket/x")
    assert "gcloud auth" in caught.value.fix


def test_a_refusal_is_a_failure_that_names_the_object(bucket, monkeypatch):
    from google.api_core.exceptions import Forbidden
    from google.cloud.storage import Blob

    def refuse(*args, **kwargs):
        raise Forbidden("no storage.objects.get access")

    monkeypatch.setattr(Blob, "reload", refuse)
    with pytest.raises(Failure, match="refuses") as caught:
        files.read_bytes(bucket + "/x")
    assert caught.value.where == bucket + "/x" and caught.value.exit_code == 1


def test_local_work_imports_nothing_of_googles(tmp_path):
    code = "import sys; from tfgpt import files; files.write_text(sys.argv[1], 'x'); list(files.walk(sys.argv[1])); "
    code += "assert not [m for m in sys.modules if m.startswith(('google', 'tensorflow', 'requests'))]"
    assert run(code, str(tmp_path / "x")).wait() == 0


# Faults on this machine


def test_killed_between_write_and_rename_the_old_file_stands(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    code = """
import sys, time
from tfgpt import files
with files.atomic_writer(sys.argv[1]) as stream:
    stream.write(b"new" * 100000)
    stream.flush()
    print("written", flush=True)
    time.sleep(60)
"""
    process = run(code, str(path))
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert path.read_text() == "old"
    files.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    code = """
import resource, sys
from tfgpt import files
from tfgpt.errors import Failure
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    files.write_bytes(sys.argv[1], b"n" * 100000)
except Failure as error:
    print(error)
"""
    process = run(code, str(path))
    said = process.communicate()[0]
    assert "no room to write x" in said and "fix:" in said
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_writing_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_walk_follows_links_but_not_in_circles_and_skips_pipes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_text("12345")
    (tmp_path / "d/up").symlink_to("..")
    (tmp_path / "e").symlink_to("d")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = [(os.path.relpath(path, tmp_path), size) for path, size in files.walk(tmp_path)]
    assert found == [("d/x", 5), ("e/x", 5), ("gone", 0)]


def test_space_is_asked_for_before_the_work(tmp_path):
    files.require_space(tmp_path / "not/yet/there", 1, purpose="a test")
    files.require_space("gs://bucket/x", 1 << 60, purpose="a test")
    with pytest.raises(Failure, match="not enough disk space for a test") as caught:
        files.require_space(tmp_path / "not/yet/there", 1 << 60, purpose="a test")
    assert caught.value.where == str(tmp_path)


def test_no_move_between_machine_and_bucket(tmp_path):
    with pytest.raises(UserError, match="copy"):
        files.move(tmp_path / "x", "gs://bucket/x")


def test_the_cache_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv("TFGPT_CACHE")
    assert files.cache_folder() == Path.home() / ".cache" / "tfgpt"
