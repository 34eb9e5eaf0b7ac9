"""TensorFlow reads what we write and writes what we read; damage is named, wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfgpt.errors import Failure, UserError
from tfgpt.weights import bundle
from tfgpt.weights.source import Tensor

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1
DATA = "model.ckpt.data-00000-of-00001"


def save(prefix: Path, arrays: dict[str, np.ndarray], **options) -> None:
    """As TensorFlow 1 saves variables."""
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.Variable(array) for name, array in arrays.items()}
        session.run(v1.global_variables_initializer())
        v1.train.Saver(variables, **options).save(session, str(prefix), write_meta_graph=False)


def ours(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    bundle.write(str(prefix), {name: Tensor(a.shape, lambda a=a: a) for name, a in arrays.items()})


def content(prefix: Path) -> dict[str, np.ndarray]:
    return {name: variable.read() for name, variable in bundle.read(str(prefix)).items()}


def agree(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        other = np.asarray(right[name])
        assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), name


def many(count: int = 300) -> dict[str, np.ndarray]:
    """Enough names for several blocks in an index, in an order of their own."""
    draw = np.random.default_rng(count)
    names = [f"model/h{i * 7919 % 1000}/{'x' * (i % 40)}/{i}" for i in range(count)]
    return {name: draw.normal(size=draw.integers(1, 5, size=i % 4)).astype("float32") for i, name in enumerate(names)}


def flip(path: Path, at: int) -> None:
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)


def through_tensorflow(prefix: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture
def prefix(tmp_path) -> Path:
    return tmp_path / "model.ckpt"


def test_every_type_that_tensorflow_writes(prefix):
    arrays = {
        "a/float": np.float32([[1, 2], [3, 4]]), "b": np.ones((3, 1), ml_dtypes.bfloat16), "half": np.float16([0.5]),
        "double": np.float64([[[1.5]]]), "global_step": np.int64(7), "flag": np.array([True, False]),
    }  # fmt: skip
    save(prefix, arrays)
    found = bundle.read(str(prefix))
    assert {name: (v.shape, v.dtype) for name, v in found.items()} == {
        name: (array.shape, array.dtype.name) for name, array in arrays.items()
    }
    agree(
        {name: np.asarray(array) for name, array in arrays.items()}, {k: np.asarray(v.read()) for k, v in found.items()}
    )


def test_several_data_files_and_variables_in_slices(prefix):
    arrays = {f"v{i}": np.full((4, 3), i, "float32") for i in range(4)}
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        variables = []
        for i, (name, array) in enumerate(arrays.items()):
            with tf.device(f"/cpu:{i % 2}"):
                variables.append(v1.get_variable(name, initializer=array, use_resource=False))
        sliced = np.arange(20, dtype="float32").reshape(10, 2)
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(3)):

            def start(shape, dtype, partition_info):
                first = partition_info.var_offset[0]
                return sliced[first : first + shape[0]]

            variables.append(v1.get_variable("sliced", (10, 2), initializer=start, use_resource=False))
        session.run(v1.global_variables_initializer())
        v1.train.Saver(sharded=True).save(session, str(prefix), write_meta_graph=False)
    parts = sorted(p.name for p in prefix.parent.glob("*.data-*"))
    assert len(parts) > 1
    agree(arrays | {"sliced": sliced}, content(prefix))
    (prefix.parent / parts[0]).unlink()
    with pytest.raises(UserError, match="a part is missing"):
        bundle.read(str(prefix))


def test_the_data_file_is_tensorflows_byte_for_byte(tmp_path):
    arrays = many(60)
    (tmp_path / "theirs").mkdir()
    save(tmp_path / "theirs/model.ckpt", arrays)
    ours(tmp_path / "model.ckpt", arrays)
    assert (tmp_path / DATA).read_bytes() == (tmp_path / "theirs" / DATA).read_bytes()


def test_tensorflow_reads_an_index_of_many_blocks(prefix):
    arrays = many()
    ours(prefix, arrays)
    assert os.path.getsize(f"{prefix}.index") > 4 * 4096
    agree(arrays, through_tensorflow(prefix))
    agree(arrays, content(prefix))
    reader = tf.train.load_checkpoint(str(prefix))
    assert all(reader.has_tensor(name) for name in arrays) and not reader.has_tensor("model/h0")


def test_the_saver_of_tensorflow_1_restores_it(prefix):
    arrays = many(120)
    ours(prefix, arrays)
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.Variable(np.zeros_like(array)) for name, array in arrays.items()}
        v1.train.Saver(variables).restore(session, str(prefix))
        agree(arrays, {name: np.asarray(session.run(variable)) for name, variable in variables.items()})


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 130]), max_size=3).map(tuple)


@settings(max_examples=30)
@given(st.dictionaries(NAMES, SHAPES, max_size=12))
def test_any_names_and_shapes(tmp_path_factory, shapes):
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt"
    draw = np.random.default_rng(len(shapes))
    arrays = {name: np.asarray(draw.normal(size=shape), "float32") for name, shape in shapes.items()}
    ours(prefix, arrays)
    agree(arrays, through_tensorflow(prefix))
    agree(arrays, content(prefix))


def test_strides_byte_order_and_other_types_do_not_matter(prefix):
    plain = np.arange(6, dtype="float32").reshape(2, 3)
    ours(prefix, {"turned": plain.T, "swapped": plain.astype(">f4"), "whole": plain.astype("int64")})
    agree({"turned": plain.T.copy(), "swapped": plain, "whole": plain}, through_tensorflow(prefix))


def test_odd_folders(tmp_path):
    arrays = {"w": np.ones(3, "float32")}
    for name in ("a (1) é*?", "a [1]"):
        prefix = tmp_path / name / "model.ckpt"
        prefix.parent.mkdir()
        ours(prefix, arrays)
        if "[" not in name:
            agree(arrays, content(prefix))
    assert len(bundle.stems(str(prefix.parent))) == 1
    with pytest.raises(tf.errors.NotFoundError):
        tf.compat.v1.train.NewCheckpointReader(str(prefix))  # it takes the path for a pattern; nothing we could escape
    with pytest.raises(UserError, match="(?s)cannot open a path.*a \\[1\\].*rename the folder"):
        bundle.read(str(prefix))


def test_every_changed_byte_of_the_data_is_noticed(prefix):
    arrays = {"a": np.ones((3, 2), "float32"), "b": np.zeros(4, "float32")}
    ours(prefix, arrays)
    path = prefix.parent / DATA
    for at in range(path.stat().st_size):
        flip(path, at)
        found = bundle.read(str(prefix))
        hurt, well = ("a", "b") if at < 24 else ("b", "a")
        agree({well: arrays[well]}, {well: found[well].read()})
        with pytest.raises(UserError, match=f"(?s)damaged: {hurt} cannot be read.*hecksum.*{DATA}.*fetch it again"):
            found[hurt].read()
        flip(path, at)


@pytest.mark.parametrize("writer", [save, ours])
def test_no_changed_byte_of_the_index_gives_other_content(prefix, writer):
    arrays = many(9)
    writer(prefix, arrays)
    path, refused = Path(f"{prefix}.index"), 0
    size = path.stat().st_size
    for at in range(size):
        flip(path, at)
        try:
            agree(arrays, content(prefix))
        except UserError as error:
            assert "damaged" in str(error) and "model.ckpt.index" in str(error)
            refused += 1
        flip(path, at)
    assert refused > size - 60, "only the padding of the footer and the block of statistics may pass"


def test_tensorflow_would_pass_over_a_damaged_block(prefix):
    """What the check of the index is for; if TensorFlow notices one day, the check can go."""
    arrays = many()
    ours(prefix, arrays)
    flip(Path(f"{prefix}.index"), 9000)
    assert 0 < len(through_tensorflow(prefix)) < len(arrays)
    with pytest.raises(UserError, match="(?s)damaged: a part of it.*checksum.*model.ckpt.index"):
        bundle.read(str(prefix))


@pytest.mark.parametrize("left", [0, 1, 47, 48, 300, -1])
def test_an_index_cut_short(prefix, left):
    ours(prefix, many(40))
    path = f"{prefix}.index"
    os.truncate(path, left % os.path.getsize(path))
    with pytest.raises(UserError, match="(?s)damaged.*cut short.*model.ckpt.index.*fetch it again"):
        bundle.read(str(prefix))


def test_data_of_another_length(prefix):
    arrays = many(10)
    ours(prefix, arrays)
    path = prefix.parent / DATA
    with open(path, "ab") as stream:
        stream.write(b"more")  # each tensor is still what its checksum says
    agree(arrays, content(prefix))
    for left in (path.stat().st_size - 5, 0):
        os.truncate(path, left)
        with pytest.raises(UserError, match=f"(?s)cut short.*{left} bytes.*{DATA}.*fetch it again"):
            bundle.read(str(prefix))
    path.unlink()
    with pytest.raises(UserError, match=f"(?s)data of the checkpoint is missing.*{DATA}"):
        bundle.read(str(prefix))
    Path(f"{prefix}.index").unlink()
    with pytest.raises(UserError, match="(?s)index of the checkpoint is missing.*model.ckpt.index"):
        bundle.read(str(prefix))


def test_a_file_that_goes_while_it_is_read(prefix):
    ours(prefix, {"a": np.ones(3, "float32")})
    found = bundle.read(str(prefix))
    (prefix.parent / DATA).unlink()
    with pytest.raises(UserError, match="(?s)a cannot be read.*No such file"):
        found["a"].read()


def test_a_writing_that_fails_leaves_nothing(prefix):
    def fail():
        raise Failure("the source is gone")

    with pytest.raises(Failure, match="gone"):
        bundle.write(str(prefix), {"a": Tensor((2,), lambda: np.ones(2, "float32")), "b": Tensor((2,), fail)})
    with pytest.raises(AssertionError, match="was read as"):
        bundle.write(str(prefix), {"a": Tensor((2,), lambda: np.ones(3, "float32"))})
    assert not list(prefix.parent.iterdir())


def test_names_of_the_latest(tmp_path):
    def latest(text: bytes) -> str | None:
        (tmp_path / "checkpoint").write_bytes(text)
        return bundle.latest(str(tmp_path))

    assert bundle.latest(str(tmp_path)) is None
    assert (
        latest(b'model_checkpoint_path: "model.ckpt-5"\nall_model_checkpoint_paths: "model.ckpt-1"\n') == "model.ckpt-5"
    )
    assert latest(b'all_model_checkpoint_paths: "x"\n  model_checkpoint_path:"/gone/run/m-5"') == "m-5"
    assert latest(b'model_checkpoint_path: "C:\\\\runs\\\\model.ckpt-7"') == "model.ckpt-7"
    assert latest(b'model_checkpoint_path: "gs://bucket/run/model.ckpt-8"') == "model.ckpt-8"
    assert (
        latest(b'model_checkpoint_path: "m\\303\\251-5"') == latest('model_checkpoint_path: "mé-5"'.encode()) == "mé-5"
    )
    for nonsense in (
        b"",
        b"\xff\xfe\0",
        b"model_checkpoint_path: 5",
        b'model_checkpoint_path: "a\\',
        b'model_checkpoint_path: ""',
    ):
        assert latest(nonsense) is None


def test_tensorflow_names_the_latest_as_we_read_it(tmp_path):
    prefix = tmp_path / "é \"quoted\" 'run'-3"
    save(prefix, {"a": np.ones(1, "float32")})
    assert bundle.latest(str(tmp_path)) == prefix.name
    assert bundle.stems(str(tmp_path)) == {prefix.name}
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", f"{prefix}.meta"):
        assert bundle.stem(str(path)) == str(prefix)
    assert bundle.stem(str(tmp_path / "other")) is None and bundle.stem(str(tmp_path / "none/model.ckpt")) is None
