"""Step-dependent factors for learning rates (and, with the natural gradient, regularisation)."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True)
class Schedule:
    """A factor that starts at 1 and ends at `final_fraction` after `total_steps`.

    Attributes:
        kind: "constant", "linear", "cosine" or "exponential" (geometric) decay.
        warmup_steps: linear rise from 0 over the first steps.
        total_steps: length of the run the decay is spread over; needed unless constant.
        final_fraction: factor at the end, in (0, 1].
    """

    kind: str = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule={self.kind!r} is unknown; allowed: {', '.join(KINDS)}")
        if self.kind != "constant" and (self.total_steps is None or self.total_steps < 1):
            raise ValueError(f"schedule={self.kind!r} needs total_steps >= 1")
        if not 0 < self.final_fraction <= 1:
            raise ValueError(f"final_fraction={self.final_fraction} must be in (0, 1]")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative")

    def __call__(self, step: int) -> float:
        """The factor of step 0, 1, 2, ..."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.kind == "constant" or self.total_steps is None:
            return warm
        progress = min(1.0, step / self.total_steps)
        if self.kind == "exponential":
            return warm * self.final_fraction**progress
        falling = 1 - progress if self.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return warm * (self.final_fraction + (1 - self.final_fraction) * falling)
