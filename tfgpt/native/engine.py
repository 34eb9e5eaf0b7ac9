"""A model that writes, on the CPU: prompts into slots, one token more in each at a time, logits out.

What to draw is not its business. Nothing here needs TensorFlow, which takes seconds to import and half a gigabyte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.machine import cores, give_memory_back
from tfgpt.model.shape import Shape
from tfgpt.native.cache import cache_of, reach_of
from tfgpt.native.choosing import choose
from tfgpt.native.network import GELU, GELU_TANH, TOGETHER, forward
from tfgpt.native.packing import pack
from tfgpt.native.team import Team
from tfgpt.native.vectors import PANEL

ROWS = 256  # tokens of prompts that are worked at a time
SCORED = 32  # tokens whose logits exist at one time when whole texts are scored
APART = 16  # numbers between two rows, or rows a multiple of 4 KiB apart would push each other out of the cache
SHARE = 1 << 20  # bytes of weights that are worth a thread


class Room(NamedTuple):
    """What a pass works in: activations by row, and each thread's own."""

    x: np.ndarray  # [rows, E]
    inner: np.ndarray  # [rows, E]
    wide: np.ndarray  # [rows, 4 E]
    logits: np.ndarray  # [wanted, n_vocab]
    sums: np.ndarray  # [threads, rows, 32]
    scores: np.ndarray  # [threads, a few rows, places]
    all: np.ndarray  # the numbers of all rows


class Engine:
    """A packed model with a cache of `slots` texts.

    `weights` are float32, by GPT-2's names; with `consume` they are taken out of the mapping one after the other, which keeps
    the peak of memory low. `dtype` is what the matrices are kept in: "float32", "bfloat16", "int8", or "auto". `.dtype` and
    `.reason` say what was chosen, and why.

    The numbers of a text are the same to the last bit whatever the other slots do, however many there are, and whether
    a token came with a prompt or by itself.

    >>> engine = Engine(checkpoint.weights, form, slots=2, dtype="int8")                # doctest: +SKIP
    >>> logits = engine.prefill(0, [464, 2068])                                        # doctest: +SKIP
    >>> logits = engine.step({0: int(logits.argmax())})[0]                              # doctest: +SKIP
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        form: Shape,
        *,
        slots: int = 1,
        dtype: str = "auto",
        consume: bool = False,
    ) -> None:
        assert slots >= 1
        self.form, self.slots, self.n_ctx = form, slots, form.n_ctx
        self.dtype, self.reason = choose(dtype, form, slots=slots)
        reach = reach_of(form, slots=slots + 1)  # one more, in which texts are scored
        self._model = pack(weights, form, self.dtype, reach, consume=consume)
        give_memory_back()  # of the matrices as they were read
        self._cache = cache_of(form, reach, slots=slots + 1)
        self._team = Team(max(1, min(cores(), self._model.bytes // SHARE)))
        self._room = self._made(min(ROWS, form.n_ctx), max(slots, min(SCORED, form.n_ctx)))
        self._gelu = GELU if form.activation == "gelu" else GELU_TANH
        self.lengths = [0] * slots

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decoding step reads, however many slots it serves."""
        return self._model.bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, all slots."""
        return sum(part.nbytes for part in self._cache) * self.slots // (self.slots + 1)

    @property
    def growth(self) -> int:
        """Bytes of memory that texts may still take: the system gives room in the cache as it is first written to."""
        return self.cache_bytes

    def prefill(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """Logits [n_vocab] after the last of 1 to n_ctx ids; the slot then holds these and nothing else."""
        return self.prefill_many({slot: ids})[slot]

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """`prefill` of several slots."""
        for slot, ids in prompts.items():
            assert 0 <= slot < self.slots and 1 <= len(ids) <= self.n_ctx, (slot, len(ids))
            self._checked(ids)
        for slot in prompts:
            self.lengths[slot] = 0  # should the prompts fail, what the slots held is spoilt already
        found = self._read([(slot, 0, ids) for slot, ids in prompts.items()])
        for slot, ids in prompts.items():
            self.lengths[slot] = len(ids)
        return found

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Logits [n_vocab] for each of these slots after one more id in it; other slots are left alone."""
        if not tokens:
            return {}
        for slot in tokens:
            assert 0 < self.lengths[slot] < self.n_ctx, f"slot {slot} holds {self.lengths[slot]} of {self.n_ctx}"
        self._checked(list(tokens.values()))
        found = self._read([(slot, self.lengths[slot], [token]) for slot, token in tokens.items()])
        for slot in tokens:
            self.lengths[slot] += 1
        return found

    def score(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities [len(ids) - 1], in nats, of each id but the first given those before it; no slot is touched."""
        assert 1 <= len(ids) <= self.n_ctx, len(ids)
        self._checked(ids)
        found = np.zeros(len(ids) - 1, np.float32)
        for first in range(0, len(ids) - 1, SCORED):
            part = ids[first : min(first + SCORED, len(ids) - 1)]
            self._pass([(self.slots, first, part)], np.arange(len(part)))
            logits = self._room.logits[: len(part), : self.form.n_vocab].astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            targets = np.asarray(ids[first + 1 : first + 1 + len(part)])
            right = logits[np.arange(len(part)), targets]
            found[first : first + len(part)] = right - np.log(np.exp(logits).sum(1))
        return found

    def _read(self, jobs: Sequence[tuple[int, int, Sequence[int]]]) -> dict[int, np.ndarray]:
        """Logits after the last id of each (slot, place of the first id, ids), by slot."""
        found: dict[int, np.ndarray] = {}
        part: list[tuple[int, int, Sequence[int]]] = []
        ends: dict[int, int] = {}  # by slot, the row of its last id
        rows = 0

        def work() -> None:
            self._pass(part, np.array(list(ends.values()), np.int64))
            found.update((slot, self._room.logits[i, : self.form.n_vocab].copy()) for i, slot in enumerate(ends))

        for slot, place, ids in jobs:
            done = 0
            while done < len(ids):
                some = ids[done : done + len(self._room.x) - rows]
                part.append((slot, place + done, some))
                done, rows = done + len(some), rows + len(some)
                if done == len(ids):
                    ends[slot] = rows - 1
                if rows == len(self._room.x):
                    work()
                    part, ends, rows = [], {}, 0
        if part:
            work()
        return found

    def _pass(self, part: Sequence[tuple[int, int, Sequence[int]]], wanted: np.ndarray) -> None:
        counts = [len(ids) for _, _, ids in part]
        ids = np.concatenate([np.asarray(ids, np.int64) for _, _, ids in part])
        places = np.concatenate([np.arange(place, place + len(ids)) for _, place, ids in part])
        firsts = np.cumsum([0, *counts[:-1]])
        texts = np.array([counts, [slot for slot, _, _ in part], [place for _, place, _ in part], firsts], np.int64)
        given = (ids, places, texts, self.form.n_head, self._gelu, wanted)
        self._team.run(forward, self._model, self._cache, self._room, *given)

    def _made(self, rows: int, wanted: int) -> Room:
        rows = max(rows, self.slots)
        width, columns = self._model.c_proj.scale.shape[1], self._model.head.scale.shape[1]
        places = int(self._model.reach[2].max())
        return Room(
            x=np.zeros((rows, width), np.float32),
            inner=np.zeros((max(rows, wanted), width), np.float32),
            wide=np.zeros((rows, self._model.c_fc.scale.shape[1] + APART), np.float32),
            logits=np.zeros((wanted, columns), np.float32),
            sums=np.zeros((self._team.count, rows + TOGETHER, PANEL), np.float32),
            scores=np.zeros((self._team.count, TOGETHER, places + APART), np.float32),
            all=np.arange(rows),
        )

    def _checked(self, ids: Sequence[int]) -> None:
        numbers = np.asarray(ids)
        assert numbers.min() >= 0 and numbers.max() < self.form.n_vocab, "an id that the vocabulary does not have"
