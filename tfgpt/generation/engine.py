"""A model that writes, on a GPU or a TPU: prompts into slots, one token more in each at a time, logits out.

It also writes on a CPU, slowly, where numba is not there for `tfgpt.native.engine`, whose interface it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfgpt.generation.cache import Cache
from tfgpt.generation.choosing import choose
from tfgpt.generation.packing import pack
from tfgpt.generation.prefilling import Prefill
from tfgpt.generation.stepping import Steps, pick
from tfgpt.machine import give_memory_back, wide_vectors
from tfgpt.model.shape import Shape

VOCABULARY = 8192  # rows of the head worked on at a time when whole texts are scored


class Engine:
    """A packed model with a cache of `slots` texts.

    `weights` are float32, by GPT-2's names; with `consume` they are taken out of the mapping one after the other, which keeps
    the peak of memory low. `dtype` is what the matrices are kept in: "float32", "bfloat16", "int8", or "auto". `.dtype` and
    `.reason` say what was chosen, and why.

    The numbers of a slot are the same to the last bit whatever the other slots do. Another number of slots may change the
    last bits.

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
        wide_vectors()
        self.form, self.slots, self.n_ctx = form, slots, form.n_ctx
        self._product, self.reason = choose(dtype, form, slots=slots)
        self.dtype = self._product.dtype
        self._model = pack(weights, form, self._product, consume=consume)
        give_memory_back()  # of the matrices as they were read
        self._compiled = False
        self._cache = Cache(form, slots=slots)
        self._prefill = Prefill(self._model, form, self._cache, self._product)
        self._steps = Steps(self._model, form, self._cache, self._product, slots=slots)
        self.lengths = [0] * slots

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decoding step reads, however many slots it serves."""
        return self._model.bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values, all slots."""
        return self._cache.bytes

    @property
    def growth(self) -> int:
        """Bytes of memory that texts may still take; the cache is there already."""
        return 0

    def prefill(self, slot: int, ids: Sequence[int]) -> np.ndarray:
        """Logits [n_vocab] after the last of 1 to n_ctx ids; the slot then holds these and nothing else."""
        return self.prefill_many({slot: ids})[slot]

    def prefill_many(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        """`prefill` of several slots."""
        found: dict[int, np.ndarray] = {}
        # One by one: what a library's product gives for a row may depend on how many there are.
        for slot, ids in prompts.items():
            assert 0 <= slot < self.slots and 1 <= len(ids) <= self.n_ctx, (slot, len(ids))
            checked = self._checked(ids)
            self.lengths[slot] = 0  # should the prompt fail, what the slot held is spoilt already
            x = self._prefill.run(checked, tf.constant([len(ids)]), tf.constant([slot]))
            self.lengths[slot] = len(ids)
            found[slot] = self._steps.head(tf.repeat(x, self.slots, 0)).numpy()[0]
        return found

    def step(self, tokens: Mapping[int, int]) -> dict[int, np.ndarray]:
        """Logits [n_vocab] for each of these slots after one more id in it; other slots are left alone."""
        if not tokens:
            return {}
        ids, active = np.zeros(self.slots, np.int32), np.zeros(self.slots, bool)
        for slot, token in tokens.items():
            assert 0 < self.lengths[slot] < self.n_ctx, f"slot {slot} holds {self.lengths[slot]} of {self.n_ctx}"
            ids[slot], active[slot] = token, True
        positions = np.minimum(self.lengths, self.n_ctx - 1).astype(np.int32)
        logits = self._steps.step(self._checked(ids), tf.constant(positions), tf.constant(active)).numpy()
        for slot in tokens:
            self.lengths[slot] += 1
        if not self._compiled:
            self._compiled = True
            give_memory_back()  # that the compiler worked in
        return {slot: logits[slot] for slot in tokens}

    def score(self, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities [len(ids) - 1], in nats, of each id but the first given those before it; no slot is touched."""
        assert 1 <= len(ids) <= self.n_ctx, len(ids)
        if len(ids) == 1:
            return np.zeros(0, np.float32)
        given = self._checked(ids)
        hidden, own = self._prefill.hidden(given)[:-1], pick(self._model.last, self._model.last_places, "wte")
        table = self._model.last["wte"]
        targets = np.asarray(ids[1:])
        top, total = np.full(len(targets), -np.inf), np.zeros(len(targets))
        found = np.zeros(len(targets))
        for first in range(0, self.form.n_vocab, VOCABULARY):
            rows = slice(first, min(first + VOCABULARY, self.form.n_vocab))
            logits = self._product.multiply(hidden, table[:, rows])
            logits = (logits * own["scale"][rows] if "scale" in own else logits).numpy().astype(np.float64)
            higher = np.maximum(top, logits.max(1))
            total = total * np.exp(top - higher) + np.exp(logits - higher[:, None]).sum(1)
            top = higher
            here = (targets >= rows.start) & (targets < rows.stop)
            found[here] = logits[here, targets[here] - first]
        return (found - top - np.log(total)).astype(np.float32)

    def _checked(self, ids: Sequence[int] | np.ndarray) -> tf.Tensor:
        numbers = np.asarray(ids, np.int32)
        assert numbers.min() >= 0 and numbers.max() < self.form.n_vocab, "an id that the vocabulary does not have"
        return tf.constant(numbers)
