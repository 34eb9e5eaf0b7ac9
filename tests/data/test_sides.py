"""Loss on one side of a chat: which tokens count, through real encodes, against a reading of the text line by line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.conftest import run
from tests.data.shards_of import write_shard
from tests.test_chat import NASTY
from tfgpt import chat, tokenizers
from tfgpt.chat import Message
from tfgpt.cli import main
from tfgpt.config import Config
from tfgpt.data import sides
from tfgpt.data.documents import Rules
from tfgpt.data.inputs import open_inputs
from tfgpt.data.tokens import Stored
from tfgpt.errors import Problems, UserError

SHAPE = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_ctx": 24, "train_batch_size": 5, "eval_steps": "all"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_CACHE", str(tmp_path / "cache"))


def conversation(name: str, count: int, *, received: bool = True) -> list[Message]:
    # Messages of 1 to 70 characters: longer than a window, some empty, with marks of other kinds.
    words = ["", "?!", "0|7|9", "ja, gern, und du? " * 4, "a <EO b", "ö" * 30, "|"]
    return [Message(bool(n % 3) or not received, name, words[(n * 5 + len(name)) % 7]) for n in range(count)]


@pytest.fixture
def data(tmp_path):
    found = [message for name in ("a", "bob", "+49", "mum 7") for message in conversation(name, 25)]
    (tmp_path / "a.chat").write_text(chat.write(found), "utf-8")
    run(tmp_path / "a.chat", tmp_path / "data", tokenizer="bpe:300", rules=Rules(eval_fraction=0.3, minimum_size=1))
    return tmp_path / "data"


def plainly(text: str, side: str) -> np.ndarray:
    """For each byte of a document in the form of `chat.write`, whether that side says it: line by line, part by part."""
    out = []
    for line in text.encode().splitlines(keepends=True):
        head = line.index(b"|", 2) + 1
        body = line.index(b"<EOM>") + 5 - head
        mine = (line[:1] == b"1") == (side == "sent")
        out += [False] * head + [mine] * body + [False] * (len(line) - head - body)
    return np.array(out, bool)


def counted(ids, tokenizer, eot, side) -> np.ndarray:
    """For each id of documents that end with `eot`: whether a byte of it counts."""
    out, begin = [], 0
    for end in np.flatnonzero(ids == eot):
        part = [tokenizer.decode_bytes([token]) for token in ids[begin:end]]
        said, at = plainly(b"".join(part).decode(), side), 0
        for piece in part:
            out.append(said[at : at + len(piece)].any())
            at += len(piece)
        out.append(False)
        begin = end + 1
    return np.array(out)


@pytest.mark.parametrize("side", ["sent", "received"])
@pytest.mark.parametrize("mode", ["packed", "sample", "random_sample"])
def test_exactly_the_tokens_of_one_side_count(data, side, mode):
    part = {"train": f"{data}/text_*.tfrecords", "eval": f"{data}/text-eval_*.tfrecords", "mode": mode, "stitch": 2}
    keys = {**SHAPE, "datasets": [part, {**part, "weight": 2.0}], "document_mask": True}
    whole, masked = open_inputs(Config(**keys)), open_inputs(Config(**keys, loss_on=side))
    for inputs, other in ((whole.train, masked.train), (whole.eval, masked.eval)):
        count = inputs.count or 40
        a, b = inputs.stack(0, count), other.stack(0, count)
        assert (a.ids == b.ids).all() and (a.segments == b.segments).all(), "what the model reads is the same"
        assert set(np.unique(a.labels[a.labels != b.labels])) and (b.labels[a.labels != b.labels] == -1).all()
        third = other.batch(3 % count, rows=slice(2, 4))
        assert (third.labels == b.labels[3 % count, 2:4]).all(), "by position and by rows alone"
    # Which tokens they are: of the flat evaluation text, every one is a label once (for each of the two equal parts).
    a, b = whole.eval.stack(0, whole.eval.count).labels, masked.eval.stack(0, whole.eval.count).labels
    expected = counted(a[a >= 0], whole.tokenizer, whole.eot, side)
    assert ((b[a >= 0] >= 0) == expected).all() and 0.2 < expected.mean() < 0.9
    assert f"loss_on {side}" in " ".join(masked.notes) and masked.train_tokens == whole.train_tokens
    text = b"".join(whole.tokenizer.decode_bytes([t]) for t in b[b >= 0])
    assert masked.bytes_per_token == pytest.approx(len(text) / expected.sum())
    if mode == "packed":
        a, b = whole.train.stack(0, 40), masked.train.stack(0, 40)
        flat = np.concatenate([s.ids for s in whole.train.sources[0].stream.stores]).astype(np.int32)
        said = counted(flat, whole.tokenizer, whole.eot, side)
        ring, marks = np.concatenate([flat, flat, flat]), np.concatenate([said, said, said])
        windows = {}
        for start in range(2 * len(flat)):
            windows.setdefault(ring[start : start + 25].tobytes(), []).append(marks[start + 1 : start + 25])
        for ids, labels, found in zip(
            a.ids.reshape(-1, 24), a.labels.reshape(-1, 24), b.labels.reshape(-1, 24), strict=True
        ):
            if labels.min() >= 0:
                options = windows[np.append(ids, labels[-1:]).tobytes()]
                assert any(((found >= 0) == option).all() for option in options)


def test_off_costs_nothing(data):
    inputs = open_inputs(Config(**SHAPE, data_path=str(data)))
    assert not inputs.train.marks and not inputs.eval.marks
    assert not any("loss_on" in note for note in inputs.notes)


MESSAGES = st.lists(st.builds(Message, st.booleans(), st.just("m|x") | NASTY, NASTY | st.text(max_size=30)), max_size=5)


@given(MESSAGES)
def test_sides_of_any_conversation(messages):
    text = chat.write(messages)
    for side in ("sent", "received"):
        marks = np.zeros(len(text.encode()), bool)
        for begin, end in sides.spans(text.encode(), side):
            marks[begin:end] = True
        said = [text.encode()[begin:end].decode() for begin, end in sides.spans(text.encode(), side)]
        lines = [chat.line(m) for m in messages if m.sent == (side == "sent")]
        assert said == [chat.HEADER.sub("", line, count=1) for line in lines]


@given(st.text() | NASTY | st.lists(NASTY).map("".join))
def test_any_bytes_at_all(text):
    sent, received = (sides.spans(text.encode("utf-8", "replace"), side) for side in ("sent", "received"))
    both = sorted(sent + received)
    assert all(a[1] <= b[0] for a, b in zip(both, both[1:], strict=False)) and all(a <= b for a, b in both)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("0|a|x <EOM> 1|a|y <EOM> z\n", ["y <EOM>"]),
        ("tail of one <EOM>\n1|a|y\nand more <EOM>\n", ["y\nand more <EOM>"]),
        ("1|a|no end\n0|a|x <EOM>\n1|a|nor here", ["no end\n", "nor here"]),
        ("1|<EOM>|odd name <EOM>\n", ["odd name <EOM>"]),
        ("x 1|a|in the middle <EOM>", []),
        ("no chat at all\n", []),
    ],
)
def test_text_that_others_wrote(text, sent):
    assert [text[begin:end] for begin, end in sides.spans(text.encode(), "sent")] == sent


def test_ids_that_the_tokenizer_does_not_have():
    byte = tokenizers.from_name("byte")
    ids = np.array([*b"1|a|x", 300, *b"y <EOM>\n", 256], np.uint16)
    store = Stored("x", ids, np.array([0, len(ids)]), "", 9, 9, 300, 0)
    (marks,) = sides.marked([store], byte, "sent")
    assert marks.ids.tolist() == [0] * 4 + [1] * 9 + [0] * 2


def test_what_there_is_to_say(data, tmp_path, capfd):
    keys = {**SHAPE, "data_path": str(data), "loss_on": "received", "max_steps": 10, "warmup_steps": 1}
    (tmp_path / "m.json").write_text(json.dumps(keys))
    assert main(["data", "batch", str(tmp_path / "m.json"), "--samples", "5"]) == 0
    shown = capfd.readouterr().out
    batch = open_inputs(Config(**keys)).train.batch(0)
    assert f"labels: {(batch.labels >= 0).sum()} count" in shown and "note: loss_on received" in shown
    tokenizer = tokenizers.load(str(data / "tokenizer"))
    first = [tokenizer.decode([t]) if t < tokenizer.n_vocab else "" for t in batch.ids[0]]
    row = shown.split("--- row 0")[1].split("---\n")[1].split("\n\n--- row")[0]
    assert (
        row.replace("[[", "").replace("]]", "").replace(" ...", "")[:20] == "".join(first)[:20] and "<EOM>]]" in shown
    )


def test_mistakes(tmp_path, data):
    with pytest.raises(ValueError, match="an input function makes its own labels"):
        Config(**SHAPE, input="a.b:c", loss_on="sent")
    with pytest.raises((UserError, Problems, ValueError)):
        Config(**SHAPE, data_path="x", loss_on="mine")
    (tmp_path / "plain.txt").write_text("no chat in this text at all, line by line\n" * 40)
    with pytest.raises(UserError, match="no token of the training data is sent"):
        open_inputs(
            Config(**SHAPE, text=str(tmp_path / "plain.txt"), tokenizer="byte", loss_on="sent", eval_fraction=0.0)
        )
    write_shard(tmp_path / "x_0.tfrecords", [[5] * 40])
    nameless = Config(**{**SHAPE, "datasets": [{"train": str(tmp_path / "x_0.tfrecords")}]}, tokenizer="gpt2", n_vocab=50257,
                      encoder_path=str(tmp_path / "none"), loss_on="sent")  # fmt: skip
    with pytest.raises(UserError, match="needs its tokenizer"):
        open_inputs(nameless)


def test_evaluation_in_which_nothing_counts_is_none(tmp_path):
    (tmp_path / "a.chat").write_text(chat.write(conversation("a", 40)), "utf-8")
    (tmp_path / "b.chat").write_text(chat.write(conversation("b", 30, received=False)), "utf-8")
    for name in "ab":
        rules = Rules(eval_fraction=0.0, minimum_size=1)
        run(tmp_path / f"{name}.chat", tmp_path / name, tokenizer="byte", split="none", rules=rules)
    part = {"train": f"{tmp_path}/a/text_*.tfrecords", "eval": f"{tmp_path}/b/text_*.tfrecords"}
    inputs = open_inputs(Config(**SHAPE, datasets=[part], tokenizer="byte", loss_on="received"))
    assert inputs.eval is None and any("nothing in the evaluation data is received" in note for note in inputs.notes)
