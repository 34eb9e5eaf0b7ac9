"""The models that `tfgpt bench growth` measures: one in the middle, and others that differ from it in one thing each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tfgpt.errors import UserError, nearest

TOKENS = 8192  # in a step along the axis of contexts, so that the longest is one window
SPAN = 256  # of local attention
HEAD = 64

AXES: dict[str, tuple[list[int], list[int]]] = {  # all values, and those of --quick
    "n_ctx": ([256, 512, 1024, 2048, 4096, 8192], [256, 1024, 4096]),
    "batch": ([1, 2, 4, 8, 16, 32, 64], [1, 8, 32]),
    "n_layer": ([2, 4, 6, 12, 24], [2, 6, 12]),
    "width": ([128, 256, 384, 512, 768], [128, 384, 768]),
    "vocabulary": ([256, 4096, 16384, 50257], [256, 4096, 50257]),
}
KEY_OF = {
    "batch": "rows",
    "width": "n_embd",
    "vocabulary": "n_vocab",
}  # what an axis changes, where it has another name


@dataclass(frozen=True)
class Point:
    """One model and its batch; the defaults are the middle."""

    n_layer: int = 6
    n_embd: int = 384
    n_ctx: int = 256
    n_vocab: int = 4096
    rows: int = TOKENS // 256
    local: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """As `Config` and `bench train` know them."""
        sizes = {key: value for key, value in asdict(self).items() if key != "local"}
        return sizes | {"n_head": max(1, self.n_embd // HEAD)}

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.rows * self.n_ctx

    @property
    def flops(self) -> float:
        """Of a step, roughly: enough to guess how long it will take."""
        seen = min(SPAN, self.n_ctx) if self.local else self.n_ctx
        weights = 12 * self.n_layer * self.n_embd**2 + self.n_vocab * self.n_embd
        return self.tokens * (6.0 * weights + 12.0 * self.n_layer * self.n_embd * seen)

    @property
    def cost(self) -> float:
        """How long measuring takes beside other points: the start is the same for all, and at least five steps are made."""
        return 1.0 + 0.5 * max(1.0, self.flops / Point().flops)


MIDDLE = Point()
Axis = list[tuple[str, Point]]  # label and point of each row of a table


def axes(*, quick: bool, only: Sequence[str] | None) -> dict[str, Axis]:
    """The points of each axis that is asked for; the middle is one of each."""
    for name in only or []:
        if name not in AXES:
            raise UserError(
                f'unknown axis "{name}"', where="--only", nearest=nearest(name, list(AXES)), fix=",".join(AXES)
            )
    return {name: _axis(name, values[quick]) for name, values in AXES.items() if name in (only or AXES)}


def _axis(name: str, values: list[int]) -> Axis:
    if name == "n_ctx":
        dense = [(f"{n:,}", replace(MIDDLE, n_ctx=n, rows=TOKENS // n)) for n in values]
        # A span that is the whole context is dense attention under another name.
        return dense + [(f"{label}, local", replace(p, local=True)) for label, p in dense if p.n_ctx > SPAN]
    key = KEY_OF.get(name, name)
    return [(f"{value:,}", replace(MIDDLE, **{key: value})) for value in values]
