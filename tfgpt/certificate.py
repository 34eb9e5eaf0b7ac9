"""Two forms of a model run on the same text: how far their logits are apart, and whether they write and expect the same."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfgpt import files, tokenizers
from tfgpt.config import Config
from tfgpt.data import english
from tfgpt.errors import Failure, UserError
from tfgpt.quiet import quiet_start
from tfgpt.tokenizers import Tokenizer
from tfgpt.training import opening
from tfgpt.weights import huggingface
from tfgpt.weights.plain import Plain
from tfgpt.weights.source import Source

KERAS = "model.keras"
LARGE = 500_000_000  # weights from which on twice their size is too much memory


@dataclass(frozen=True)
class Contestant:
    """One form of a model, ready to run. `by` says what computes it; `run` gives logits [T, n_vocab] of one text, and
    `greedy` what it writes after a prompt."""

    path: str
    by: str
    n_ctx: int
    n_vocab: int
    tokenizer: Tokenizer | None
    run: Callable[[Sequence[int]], np.ndarray]
    greedy: Callable[[Sequence[int], int], list[int]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """What was found; `agreed` of `written` greedy tokens are the same from the first on."""

    paths: tuple[str, str]
    by: tuple[str, str]
    tokens: int
    difference: float
    agreed: int
    written: int
    perplexities: tuple[float, float]
    notes: tuple[str, ...] = ()

    def within(self, tolerance: float) -> bool:
        """Whether no logit differs by more."""
        return self.difference <= tolerance

    def lines(self) -> Iterator[str]:
        """For the screen."""
        for path, by, perplexity in zip(self.paths, self.by, self.perplexities, strict=True):
            yield f"{path}: by {by}; perplexity {perplexity:.6f} over {self.tokens} tokens"
        yield f"largest difference of a logit {self.difference:.3g}; greedy text the same for {self.agreed} of {self.written} tokens"


def certify(
    first: str, second: str, *, text: str | None = None, length: int = 200, n_head: int | None = None
) -> Certificate:
    """Run both on the same tokens. Each is computed by its own library where that is installed, else apart from our network."""
    # Never the same code on both sides: only one of them may be run by our engine.
    engine_second = opening.is_foreign(first) and not opening.is_foreign(second)
    ours, theirs = _open(first, n_head, engine=not engine_second), _open(second, n_head, engine=engine_second)
    if ours.n_vocab != theirs.n_vocab:
        raise UserError(
            f"these are different models: vocabularies of {ours.n_vocab} and {theirs.n_vocab}",
            where=f"{first} and {second}",
        )
    n_ctx = min(ours.n_ctx, theirs.n_ctx)
    if n_ctx < 2:
        raise UserError("a model with a context of one token cannot be compared", where=first)
    ids = _ids(text, ours.tokenizer or theirs.tokenizer, ours.n_vocab, n_ctx)
    rows = [side.run(ids) for side in (ours, theirs)]
    for side, found in zip((ours, theirs), rows, strict=True):
        if not np.isfinite(found).all():
            raise Failure("its numbers are not finite", where=side.path, fix="fetch or train the model again")
    prompt = ids[: max(1, min(len(ids) // 2, n_ctx - length))]
    length = min(length, n_ctx - len(prompt))
    texts = [side.greedy(prompt, length) for side in (ours, theirs)]
    return Certificate(
        (first, second),
        (ours.by, theirs.by),
        len(ids),
        float(np.abs(rows[0].astype(np.float64) - rows[1]).max()),
        next((i for i, pair in enumerate(zip(*texts, strict=True)) if pair[0] != pair[1]), length),
        length,
        (_perplexity(rows[0], ids), _perplexity(rows[1], ids)),
        tuple(f"{side.path}: {note}" for side in (ours, theirs) for note in side.notes),
    )


def _ids(text: str | None, tokenizer: Tokenizer | None, n_vocab: int, n_ctx: int) -> list[int]:
    if tokenizer is None:
        if text is not None:
            raise UserError("neither model has a tokenizer that could read the text", fix="leave --file out")
        return np.random.default_rng(0).integers(0, n_vocab, min(n_ctx, 256)).tolist()
    if text is None:
        found: list[int] = []
        for _, document in english.documents():
            try:
                found += tokenizer.encode(document)
            except UserError:  # letters that this tokenizer does not have
                continue
            if len(found) >= 256:
                break
        text_ids = found[:256] or np.random.default_rng(0).integers(0, n_vocab, 256).tolist()
    else:
        text_ids = tokenizer.encode(text)
    if len(text_ids) < 2:
        raise UserError("the text must have two tokens at least", where="--file")
    return text_ids[: min(n_ctx, 256)]


def _perplexity(rows: np.ndarray, ids: Sequence[int]) -> float:
    rows = rows[:-1].astype(np.float64)
    top = rows.max(1)
    losses = top + np.log(np.exp(rows - top[:, None]).sum(1)) - rows[np.arange(len(rows)), ids[1:]]
    return math.exp(losses.mean())


def _open(path: str, n_head: int | None, *, engine: bool) -> Contestant:
    if files.exists(files.join(path, "model.tflite")):
        raise UserError("a LiteRT file has int8 weights: it is near its model, not equal to it", where=path)
    if files.exists(files.join(path, "saved_model.pb")):
        return _saved_model(path)
    if files.exists(files.join(path, KERAS)):
        return _keras(path)
    found = opening.source(path, n_head=n_head)
    if huggingface.recognises(path) and _have("torch", "transformers"):
        return _transformers(path, found)
    if engine:
        return _engine(found)
    plain = Plain(found, "float64" if _size(found) < LARGE else "float32")
    return _stepping(found, f"NumPy, {next(iter(plain.w.values())).dtype}", plain.forget, plain.logits)


def _engine(source: Source) -> Contestant:
    from tfgpt.generation.engines import engine_class
    from tfgpt.model.shape import Shape

    form = Shape.of(Config(**opening.config_of(source)))
    weights = {name: tensor.read() for name, tensor in source.tensors.items()}
    engine = engine_class()(weights, form, slots=1, dtype="float32", consume=True)
    state = {"begun": False}

    def forget() -> None:
        state["begun"] = False

    def logits(token: int) -> np.ndarray:
        begun, state["begun"] = state["begun"], True
        return engine.step({0: token})[0] if begun else engine.prefill(0, [token])

    return _stepping(source, "tfgpt, float32", forget, logits)


def _stepping(source: Source, by: str, forget: Callable[[], None], logits: Callable[[int], np.ndarray]) -> Contestant:
    def run(ids: Sequence[int]) -> np.ndarray:
        forget()
        return np.stack([logits(token) for token in ids])

    def greedy(prompt: Sequence[int], length: int) -> list[int]:
        found = [int(run(prompt)[-1].argmax())]
        while len(found) < length:
            found.append(int(logits(found[-1]).argmax()))
        return found[:length]

    keys = source.keys
    return Contestant(source.path, by, keys["n_ctx"], keys["n_vocab"], source.tokenizer, run, greedy, source.notes)


def _whole(path: str, by: str, keys: Mapping[str, Any], tokenizer: Tokenizer | None, run: Any) -> Contestant:
    """For what only knows whole texts."""

    def greedy(prompt: Sequence[int], length: int) -> list[int]:
        ids = list(prompt)
        for _ in range(length):
            ids.append(int(run(ids)[-1].argmax()))
        return ids[len(prompt) :]

    return Contestant(path, by, keys["n_ctx"], keys["n_vocab"], tokenizer, run, greedy)


def _transformers(path: str, source: Source) -> Contestant:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    past: list[Any] = [None]

    def forget() -> None:
        past[0] = None

    @torch.no_grad()
    def logits(token: int) -> np.ndarray:
        out = model(torch.tensor([[token]]), past_key_values=past[0], use_cache=True)
        past[0] = out.past_key_values
        return out.logits[0, -1, : source.keys["n_vocab"]].float().numpy()

    return _stepping(source, f"transformers {transformers.__version__}", forget, logits)


def _saved_model(path: str) -> Contestant:
    with quiet_start():
        import tensorflow as tf

    run_graph = tf.saved_model.load(path).signatures["logits"]
    keys = _keys(path)

    def run(ids: Sequence[int]) -> np.ndarray:
        (found,) = run_graph(ids=tf.constant([list(ids)], tf.int32)).values()
        return found.numpy()[0]

    return _whole(path, "the SavedModel itself", keys, _tokenizer(path), run)


def _keras(path: str) -> Contestant:
    with quiet_start():
        import keras

    model = keras.saving.load_model(files.join(path, KERAS))

    def run(ids: Sequence[int]) -> np.ndarray:
        return np.asarray(model(np.array([list(ids)], "int32")))[0]

    return _whole(path, f"Keras {keras.__version__}, stock layers", _keys(path), _tokenizer(path), run)


def _keys(path: str) -> dict[str, Any]:
    return json.loads(files.read_bytes(files.join(path, "config.json")))


def _tokenizer(path: str) -> Tokenizer | None:
    folder = files.join(path, "tokenizer")
    return tokenizers.load(folder) if files.exists(folder) else None


def _have(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) for name in packages)


def _size(source: Source) -> int:
    return sum(math.prod(tensor.shape) for tensor in source.tensors.values())
