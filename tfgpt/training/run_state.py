"""What a run knows besides its weights: how far it is, which data it has left out, and what its guard remembers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tfgpt.training.guard import Guard


@dataclass
class RunState:
    """The part of a checkpoint that is JSON; a resumed run that has it goes on exactly as if it had never stopped."""

    step: int = 0  # updates made
    tokens: int = 0  # labels trained on
    elapsed: float = 0.0  # seconds of training, over all sessions
    data: str = ""  # identity of the data
    skips: list[list[int]] = field(default_factory=list)  # [from this step on, leave out so many batches]
    guard: Guard = field(default_factory=Guard)

    def position(self, step: int) -> int:
        """Which batch of the data the update after `step` others is made with.

        >>> RunState(skips=[[100, 7]]).position(99), RunState(skips=[[100, 7]]).position(100)
        (99, 107)
        """
        return step + sum(count for start, count in self.skips if step >= start)

    def until_skip(self, step: int) -> int | None:
        """Steps from `step` up to the next one where batches are left out, which a stretch of data must not span."""
        later = [start - step for start, _ in self.skips if start > step]
        return min(later) if later else None

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, state: dict[str, Any]) -> RunState:
        """From a checkpoint; what a newer version added stands at its default."""
        known = {key: state[key] for key in cls.__dataclass_fields__ if key in state and key != "guard"}
        return cls(**known, guard=Guard(**state.get("guard", {})))
