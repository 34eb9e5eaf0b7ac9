"""Loss and gradients of a GPT on the CPU by compiled code of our own: what `tfgpt.model.parts` computes, to rounding."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from tfgpt.config import Config
from tfgpt.machine import cores
from tfgpt.model.shape import Shape, block_weights
from tfgpt.native import learning
from tfgpt.native.attending import LOOK
from tfgpt.native.block import Kept, Room
from tfgpt.native.dropout import drops_of
from tfgpt.native.learning import Given, gradients_of, loss_of
from tfgpt.native.products import HIGH, OF_PAIRS, ROOM, TALLEST, ready
from tfgpt.native.team import Team

APART = 16  # numbers between two rows, or rows a multiple of 4 KiB apart would push each other out of the cache
CHUNK_BYTES = 64 << 20  # of logits that exist at one time
ENDS = ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")
PHASES_A_BLOCK, PHASES_A_CHUNK = 11, 3  # at most
Key = tuple[int, int] | None


class Places(NamedTuple):
    """Addresses of weights, or of their gradients; 0 for those that are not there. `held` keeps what lies there alive."""

    blocks: np.ndarray  # [blocks, 12]
    ends: np.ndarray  # [4]
    held: object

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], form: Shape) -> Places:
        """Those of arrays by GPT-2's names."""

        def places(names: Iterable[str]) -> list[int]:
            return [arrays[name].ctypes.data if name in arrays else 0 for name in names]

        inner = list(block_weights(form.n_embd))
        blocks = [places(f"h.{i}.{name}" for name in inner) for i in range(form.n_layer)]
        return cls(np.array(blocks, np.int64), np.array(places(ENDS), np.int64), arrays)


class Gradients:
    """Of the weights in `names`, or of all; what it works in is made with the first batch. Products are of float32, or of
    bfloat16 with `of_pairs`; all else is float32 in any case.

    >>> learn = Gradients(config, shape)                                               # doctest: +SKIP
    >>> loss, gradients = learn(Places.of(weights, shape), ids, labels, None)          # doctest: +SKIP
    """

    def __init__(
        self,
        config: Config,
        form: Shape,
        *,
        names: Collection[str] | None = None,
        threads: int | None = None,
        of_pairs: bool = False,
    ):
        ready()
        self._of_pairs = of_pairs
        self.form = form
        self.names = list(form.weights if names is None else names)
        self._recompute = config.recompute != "none"
        self._rates = config.embed_dropout, config.attn_dropout, config.res_dropout
        self._parts = config.accumulate
        self.team = Team(threads or cores())
        self.found, self._spare = _laid_out(form, self.names)
        if config.accumulate > 1:  # gradients stay from one part of a batch to the next
            self._spare = self._spare[:0]
        self._kept: Kept | None = None
        self._room: Room | None = None
        self._length = 0
        self._to = Places.of(self.found, form)
        self._reach = np.array([self._reach_of(i) for i in range(form.n_layer)], np.int64)

    def __call__(self, weights: Places, ids, labels, segments, *, scale: float = 1.0, key: Key = None, step: int = 0):
        """The sum of the losses in nats and its gradients by name, both times `scale`; ids, labels: [B, T].

        They are worked in as many micro-batches as the configuration says. Dropout is that of the run's `key` at this
        step; without one there is none. The gradients lie where those of the next call will, and the logits of `loss`.
        """
        total, size = 0.0, len(ids) // self._parts
        for part in range(self._parts):
            some = slice(part * size, (part + 1) * size)
            given = self._given(weights, ids[some], labels[some], None if segments is None else segments[some])
            given.numbers[learning.FRESH] = part == 0
            if key is not None:
                given = given._replace(drops=drops_of(self._rates, key, (step, 0, part)))
            total += self._run(gradients_of, given, np.float32(scale))
        return total * scale, self.found

    def loss(self, weights: Places, ids, labels, segments) -> float:
        """The sum of the losses."""
        return self._run(loss_of, self._given(weights, ids, labels, segments))

    def _run(self, work, given: Given, *more) -> float:
        kept, room = self._places(*given.begins.shape)
        given.numbers[learning.CHUNK] = min(given.numbers[learning.CHUNK], len(room.logits))
        chunks = -(-len(given.ids) // int(given.numbers[learning.CHUNK]))
        counters = np.zeros((PHASES_A_BLOCK * self.form.n_layer + PHASES_A_CHUNK * chunks + 8, 8), np.int64)
        self.team.run(work, counters, given, kept, room, *more)
        return float(room.losses[: len(given.ids)].sum())

    def _given(self, weights: Places, ids, labels, segments) -> Given:
        form, count, width = self.form, self.team.count, self.form.n_embd
        texts, length = ids.shape
        n = texts * length
        high = even_parts(n, count, HIGH)
        numbers = np.zeros(12, np.int64)
        numbers[:] = (
            width, form.n_head, form.activation == "gelu", form.n_vocab, form.rows, form.n_ctx, high, chunk_of(form, n),
            min(HIGH, max(4 * TALLEST, -(-width // -(-count // 2)))), self._lowest(), 1, self._recompute,
        )  # fmt: skip
        return Given(
            ids=np.ascontiguousarray(ids, np.int64).reshape(-1),
            labels=np.ascontiguousarray(labels, np.int64).reshape(-1),
            begins=begins_of(segments, texts, length),
            weights=weights.blocks,
            ends=weights.ends,
            gradients=self._to.blocks,
            dends=self._to.ends,
            reach=self._reach,
            numbers=numbers,
            drops=drops_of(self._rates, None, (0, 0, 0)),
        )

    def _lowest(self) -> int:
        """The lowest block that gradients have to reach; -1: down to the embeddings."""
        if {"wte.weight", "wpe.weight"} & set(self.names):
            return -1
        return min((int(name.split(".")[1]) for name in self.names if name.startswith("h.")), default=self.form.n_layer)

    def _reach_of(self, i: int) -> tuple[int, int, int]:
        form = self.form
        endless = 2 * form.n_ctx
        kind = form.attention[i]
        return (
            form.block if kind == "local" else endless,
            form.shift(i) if kind == "local" else 0,
            form.window if kind == "sliding" else endless,
        )

    def _places(self, texts: int, length: int) -> tuple[Kept, Room]:
        """Made anew only for more, or longer, texts than before."""
        if self._kept is None or self._room is None or texts * length > len(self._room.losses) or length > self._length:
            self._kept = self._room = None  # gone before there are others
            drops = self._rates[2] > 0
            how = {"threads": self.team.count, "recompute": self._recompute, "drops": drops}
            kept, room = shapes_of(self.form, texts, length, **how)
            self._kept = Kept(*map(aligned, kept))
            arrays = {
                name: aligned(shape) for name, shape in room._asdict().items() if name not in ("logits", "losses")
            }
            self._room = Room(**arrays, logits=self._logits(room.logits), losses=np.zeros(room.losses))
            self._room.own[:, 0] = OF_PAIRS if self._of_pairs else 0
            self._length = length
        return self._kept, self._room

    def _logits(self, shape: tuple[int, ...]) -> np.ndarray:
        """Room for logits: where gradients of the blocks will be, of which none exists yet while there are logits."""
        size = math.prod(shape)
        return self._spare[:size].reshape(shape) if size <= len(self._spare) else aligned(shape)


def _laid_out(form: Shape, names: Collection[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays for gradients, by name; and the memory of those of all blocks, as one array."""
    sizes = {name: -(-math.prod(form.weights[name]) // 16) * 16 for name in names}
    ends = {name: size for name, size in sizes.items() if not name.startswith("h.")}
    apart = {name: aligned((size,)) for name, size in ends.items()}
    blocks = aligned((sum(sizes.values()) - sum(ends.values()),))
    found, begin = {}, 0
    for name in names:
        whole = apart[name] if name in apart else blocks[begin : begin + sizes[name]]
        begin += 0 if name in apart else sizes[name]
        found[name] = whole[: math.prod(form.weights[name])].reshape(form.weights[name])
    return found, blocks


def shapes_of(form: Shape, texts: int, length: int, *, threads: int, recompute: bool, drops: bool) -> tuple[Kept, Room]:
    """Shapes of all arrays for a batch, where the arrays will be."""
    n, width, blocks = texts * length, form.n_embd, 1 if recompute else form.n_layer
    kept = (
        (form.n_layer + 1, n, width), (blocks, n, 3 * width), (blocks, n, width), (blocks, n, form.n_head),
        (blocks, n, width), (blocks, n, 4 * width),
    )  # fmt: skip
    room = (
        (n, width), (n, width), (n, 4 * width), (n, 4 * width), (n, width), (n, width), (n, width),
        (n, 3 * width), (2, n, width), (2, n if drops else 1, width), (chunk_of(form, n), form.rows),
        (threads, ROOM), (threads, 2, LOOK, length),
    )  # fmt: skip
    longer = [[(*shape[:-1], shape[-1] + APART) for shape in shapes] for shapes in (kept, room)]
    return Kept(*longer[0]), Room(*longer[1], losses=(n,))


def bytes_of(config: Config, form: Shape, texts: int, names: Collection[str]) -> int:
    """What it works in for so many windows at a time, in bytes, beside the gradients."""
    how = {"threads": cores(), "recompute": config.recompute != "none", "drops": config.res_dropout > 0}
    kept, room = shapes_of(form, texts, form.n_ctx, **how)
    blocks = [math.prod(form.weights[name]) for name in names if name.startswith("h.")]
    spare, logits = sum(blocks) if config.accumulate == 1 else 0, math.prod(room.logits)
    return 4 * (sum(math.prod(shape) for shape in (*kept, *room)) - (logits if logits <= spare else 0))


def chunk_of(form: Shape, n: int) -> int:
    """Of how many tokens logits exist at one time."""
    return min(n, even_parts(n, 1, max(HIGH, CHUNK_BYTES // 4 // form.rows)))


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros at an address that TensorFlow takes as it is; the system gives the memory as it is first written to."""
    count = int(np.prod(shape))
    whole = np.zeros(count + 16, np.float32)
    begin = -whole.ctypes.data % 64 // 4
    return whole[begin : begin + count].reshape(shape)


def even_parts(n: int, count: int, most: int) -> int:
    """How many of n are one of equal parts, of at most `most`, so that each of `count` threads has as many."""
    parts = count * max(1, -(-n // (count * most)))
    high = -(-n // parts)
    return min(n, -(-high // TALLEST) * TALLEST)


def begins_of(segments: np.ndarray | None, texts: int, length: int) -> np.ndarray:
    """The place where each token's document begins [texts, T]; equal numbers of a row stand side by side."""
    found = np.zeros((texts, length), np.int64)
    if segments is not None and length > 1:
        new = segments[:, 1:] != segments[:, :-1]
        found[:, 1:] = np.maximum.accumulate(np.where(new, np.arange(1, length), 0), axis=1)
    return found
