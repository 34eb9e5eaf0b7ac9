"""Batches from an input function of the user's own: `f(params, eval=False)`, as the lineage registers them.

`params` is the configuration as a dictionary, with `batch_size` for the split that is asked for. What comes back is iterated: a
tf.data.Dataset, a generator, a list; each element is (ids, labels) or {"ids": ..., "labels": ...}, one example of n_ctx ids or
several. Batches are cut anew, so the size of the function's own does not matter. One that ends is called again.

A resumed run has to pass by what was used already, which takes time in proportion, and sees the same batches only if the function
gives the same examples each time it is called. A function with a third parameter `position` is told the number of the batch to
begin with instead, and nothing is passed by; as it decides what an epoch is, it must not end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfgpt.data.batches import Batches
from tfgpt.errors import UserError

LARGEST_EVAL = 1 << 28  # tokens held in memory for evaluation
Pair = tuple[np.ndarray, np.ndarray]


class FunctionBatches(Batches):
    """Training batches, read one after the other; going back, or far ahead, begins anew and passes by what lies before."""

    steps_per_epoch = float("inf")  # nobody knows

    def __init__(self, function: Function, **settings: Any) -> None:
        super().__init__(**settings)
        self._function = function
        self._position = -1
        self._rows: Iterator[Pair] = iter(())
        self._rest: Pair | None = None

    def _windows(self, examples: np.ndarray, windows: np.ndarray, real: np.ndarray) -> Pair:
        if not len(examples):
            return windows[:, :-1], windows[:, 1:]
        first, last = int(examples[0]) // self.batch_size, int(examples[-1]) // self.batch_size
        read = [self._batch(position) for position in range(first, last + 1)]
        rows = examples - first * self.batch_size
        return np.concatenate([ids for ids, _ in read])[rows], np.concatenate([labels for _, labels in read])[rows]

    def _batch(self, position: int) -> Pair:
        if position < self._position or self._position < 0 or (self._function.seeks and position != self._position):
            self._position = position if self._function.seeks else 0
            self._rows, self._rest = self._function.rows(position=self._position), None
        while self._position < position:
            self._take()
        return self._take()

    def _take(self) -> Pair:
        parts, missing = ([self._rest] if self._rest else []), self.batch_size
        missing -= len(parts[0][0]) if parts else 0
        fruitless = 0
        while missing > 0:
            part = next(self._rows, None)
            if part is None:
                if self._function.seeks:
                    raise self._function.error(f"it ends in batch {self._position}; one that takes a position goes on")
                fruitless += 1
                if fruitless > 1:
                    raise self._function.error("it gives no examples")
                # The data is at its end and begins again.
                self._rows = self._function.rows(position=self._position)
                continue
            fruitless = 0
            parts.append(part)
            missing -= len(part[0])
        ids, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        size = self.batch_size
        self._rest = (ids[size:], labels[size:]) if len(ids) > size else None
        self._position += 1
        return ids[:size], labels[:size]


class HeldBatches(Batches):
    """Evaluation batches of a function, read once and held, so that every evaluation sees the same ones."""

    def __init__(self, pairs: list[Pair], **settings: Any) -> None:
        super().__init__(**settings)
        self._ids, self._labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
        self.count = -(-len(self._ids) // self.batch_size)
        self.steps_per_epoch = self.count

    def _windows(self, examples: np.ndarray, windows: np.ndarray, real: np.ndarray) -> Pair:
        ids, labels = np.full_like(windows[:, 1:], self.eot), np.full_like(windows[:, 1:], -1)
        present = examples < len(self._ids)
        ids[present], labels[present] = self._ids[examples[present]], self._labels[examples[present]]
        return ids, labels


class Function:
    """The user's function for one split, and the checks on what it gives."""

    def __init__(
        self, function: Callable[..., Any], name: str, params: dict[str, Any], *, evaluate: bool, n_vocab: int
    ) -> None:
        self._function, self.name, self._params, self._evaluate = function, name, params, evaluate
        self._n_ctx, self._n_vocab = int(params["n_ctx"]), n_vocab
        try:
            self.seeks = "position" in inspect.signature(function).parameters
        except (TypeError, ValueError):
            self.seeks = False

    def rows(self, *, position: int = 0) -> Iterator[Pair]:
        """Checked ids and labels [rows, n_ctx] int32, as they come."""
        more = {"position": position} if self.seeks else {}
        try:
            data = self._function(self._params, eval=self._evaluate, **more)
            if data is None:
                return
            elements = data.as_numpy_iterator() if hasattr(data, "as_numpy_iterator") else iter(data)
            for number, element in enumerate(elements):
                yield self._checked(element, number)
        except UserError:
            raise
        except Exception as error:
            raise self.error(f"{type(error).__name__}: {error}") from error

    def held(self, steps: int | str, batch_size: int) -> list[Pair]:
        """The evaluation examples: enough for `steps` batches, or all there are."""
        pairs, left = [], float("inf") if steps == "all" else int(steps) * batch_size
        tokens = 0
        for ids, labels in self.rows():
            pairs.append((ids[: int(min(left, len(ids)))], labels[: int(min(left, len(ids)))]))
            left -= len(ids)
            tokens += ids.size
            if tokens > LARGEST_EVAL:
                fix = "say how many: --set eval_steps=10"
                raise self.error(f"its evaluation data does not end within {LARGEST_EVAL:,} tokens", fix=fix)
            if left <= 0:
                break
        return pairs

    def error(self, what: str, *, fix: str = "") -> UserError:
        """An error that names the function."""
        return UserError(f"the input function: {what}", where=f'$.input is "{self.name}"', fix=fix)

    def _checked(self, element: Any, number: int) -> Pair:
        """An element's ids and labels as [rows, n_ctx] int32."""
        shape = f"(ids, labels), each [n_ctx] or [rows, n_ctx] with n_ctx {self._n_ctx}"
        if isinstance(element, dict) and {"ids", "labels"} <= set(element):
            element = (element["ids"], element["labels"])
        if not isinstance(element, (tuple, list)) or len(element) != 2:
            raise self.error(f"element {number} is {_kind(element)}, not {shape}")
        ids, labels = (np.atleast_2d(np.asarray(part)) for part in element)
        if ids.ndim != 2 or ids.shape != labels.shape or ids.shape[1] != self._n_ctx:
            found = " and ".join(str(list(np.shape(part))) for part in element)
            raise self.error(f"element {number} has the shapes {found}, not {shape}")
        for what, part, least in (("ids", ids, 0), ("labels", labels, -1)):
            if not np.issubdtype(part.dtype, np.integer):
                raise self.error(f"the {what} of element {number} are {part.dtype}, not whole numbers")
            wrong = part[(part < least) | (part >= self._n_vocab)]
            if wrong.size:
                raise self.error(
                    f"the {what} of element {number} hold {wrong[0]}, but the vocabulary is 0 to {self._n_vocab - 1}",
                    fix="set n_vocab and the tokenizer to those of this data",
                )
        return ids.astype(np.int32), labels.astype(np.int32)


def _kind(element: Any) -> str:
    shape = getattr(element, "shape", None)
    if isinstance(element, dict):
        return f"a dictionary of {', '.join(map(str, element))}"
    return type(element).__name__ + (f" of shape {list(shape)}" if shape is not None else "")
