"""Updates on one CPU by compiled code: which weights change by which rule, and what that is told at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfgpt.config import Config
from tfgpt.machine import cores
from tfgpt.native import factoring, orthogonal, updating
from tfgpt.native.team import Team
from tfgpt.optimizers import decays, muon
from tfgpt.optimizers.adafactor import Adafactor
from tfgpt.optimizers.adam import weight_given

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
# What a work is told behind the factor, from the counts and rates of some steps: for each constant one or one a step.
Told = Callable[[np.ndarray, np.ndarray], Sequence[Any]]


class Rule(NamedTuple):
    """How some weights change, and what is remembered of each."""

    work: Callable[..., None]
    names: Sequence[str]
    slots: Sequence[str]
    table: updating.Table
    told: Told
    more: tuple[np.ndarray, ...] = ()


class OwnUpdates:
    """One update after the other, in the memory of the weights and of what is remembered of them.

    The gradients stay where they are; where everything else is, `locate` has to be told whenever that may have changed.
    """

    def __init__(self, config: Config, team: Team, shapes: Shapes, gradients: Arrays) -> None:
        self.config, self.team = config, team
        self._gradients = gradients
        self._all = updating.table_of(list(shapes.values()), [False] * len(shapes), slots=0)
        self._all.places[updating.GRADIENT] = [gradients[name].ctypes.data for name in shapes]
        self._rules = _rules_of(config, shapes, team.count)

    def norm(self) -> float:
        """The length of all gradients together."""
        return math.sqrt(updating.squares(self.team, self._all))

    def locate(self, weights: Arrays, slots: Mapping[str, Arrays]) -> None:
        """Say where the weights are, and by slot what is remembered; whoever says it keeps them there."""
        places: list[int] = []
        for rule in self._rules:
            kinds = [weights, self._gradients, *(slots.get(slot, {}) for slot in rule.slots)]
            for row, arrays in zip(rule.table.places, kinds, strict=True):
                row[:] = [arrays[name].ctypes.data if name in arrays else 0 for name in rule.names]
            places += rule.table.places[rule.table.places != 0].tolist()
        assert len(set(places)) == len(places), "two variables in one place"

    def told(self, steps: np.ndarray, rates: np.ndarray) -> list[np.ndarray]:
        """For each rule its constants, a line for each of these steps, of which each goes with its rate."""
        counts = steps.astype(np.float32) + np.float32(1)
        columns = [np.broadcast_arrays(np.ones_like(rates), *rule.told(counts, rates)) for rule in self._rules]
        return [np.stack(each, axis=1).astype(np.float32) for each in columns]

    def __call__(self, factor: float, told: Sequence[np.ndarray]) -> None:
        """One update by gradients times `factor`; of each rule the constants of this step."""
        for rule, constants in zip(self._rules, told, strict=True):
            given = constants.copy()
            given[updating.FACTOR] *= factor
            counters = np.zeros((updating.PHASES, 8), np.int64)
            self.team.run(rule.work, counters, rule.table, given, *rule.more)


def bytes_of(config: Config, shapes: Shapes) -> int:
    """What updates of such weights work in, beside all that is there before and after them."""
    return sum(array.nbytes for rule in _rules_of(config, shapes, cores()) for array in rule.more)


def _rules_of(config: Config, shapes: Shapes, threads: int) -> list[Rule]:
    kinds = {"adam": _adam, "adafactor": _adafactor, "sgd": _sgd}
    if config.opt_name != "muon":
        return [kinds[config.opt_name](config, shapes)]
    hidden = {name: shape for name, shape in shapes.items() if muon.is_hidden(name, shape)}
    others = {name: shape for name, shape in shapes.items() if name not in hidden}
    found = [_muon(config, hidden, threads)] if hidden else []
    return [*found, _adam(config, others)] if others else found


def _table(config: Config, shapes: Shapes, slots: Sequence[str]) -> updating.Table:
    return updating.table_of(list(shapes.values()), [decays(config, *item) for item in shapes.items()], len(slots))


def _decay(config: Config, rates: np.ndarray) -> np.ndarray:
    return rates * np.float32(max(config.weight_decay, 0.0))


def _adam(config: Config, shapes: Shapes) -> Rule:
    beta1, beta2, slots = config.beta1, config.beta2, ("m", "v")

    def told(counts: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        given1, given2 = (np.array(weight_given(beta, counts)) for beta in (beta1, beta2))
        rest = 1.0 - beta1, 1.0 - beta2
        return rates / given1, _decay(config, rates), beta1, beta2, *rest, 1.0 / given2, config.epsilon

    return Rule(updating.adam, list(shapes), slots, _table(config, shapes, slots), told)


def _sgd(config: Config, shapes: Shapes) -> Rule:
    table = _table(config, shapes, ("m",))
    return Rule(
        updating.descend, list(shapes), ("m",), table, lambda _, rates: (rates, _decay(config, rates), config.beta1)
    )


def _adafactor(config: Config, shapes: Shapes) -> Rule:
    rule = Adafactor(config)

    def told(counts: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        return rates, _decay(config, rates), config.beta1, 1.0 - config.beta1, np.array(rule.new_share(counts))

    slots = ("m", "v", "vr", "vc")
    table = _table(config, shapes, slots)
    return Rule(factoring.adafactor, list(shapes), slots, table, told, factoring.room_of(table))


def _muon(config: Config, shapes: Shapes, threads: int) -> Rule:
    table = _table(config, shapes, ("m",))
    units = orthogonal.units_of(table, [muon.parts_of(name) for name in shapes])

    def told(_: np.ndarray, rates: np.ndarray) -> Sequence[Any]:
        fixed = muon.MOMENTUM, 1.0 - muon.MOMENTUM, *muon.COEFFICIENTS, muon.ROUNDS, muon.RMS_OF_ADAM
        return rates, _decay(config, rates), *fixed

    return Rule(orthogonal.muon, list(shapes), ("m",), table, told, (units, orthogonal.room_of(table, units, threads)))
