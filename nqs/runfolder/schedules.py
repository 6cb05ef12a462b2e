"""Step-dependent factors: of learning rates, and of the shift of a natural gradient's metric."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

KINDS = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True)
class Schedule:
    """A factor that starts at 1 and falls to `final_fraction`.

    Attributes:
        kind: "constant", "linear", "cosine" or "exponential" (geometric) decay.
        warmup_steps: linear rise from 0 over the first steps, times the decay.
        decay_steps: steps over which it falls, >= 1; None until they are known (`over`).
        decay_start: steps before it begins to fall.
        final_fraction: factor at the end, in (0, 1].
    """

    kind: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    decay_start: int = 0
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule={self.kind!r} is unknown; allowed: {', '.join(KINDS)}")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"decay_steps={self.decay_steps} must be >= 1")
        if not 0 < self.final_fraction <= 1:
            raise ValueError(f"final_fraction={self.final_fraction} must be in (0, 1]")
        for name in ("warmup_steps", "decay_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

    def over(self, n_steps: int) -> Schedule:
        """The same for a run of n_steps. Raises ValueError for a warm-up that outlasts it."""
        if self.warmup_steps >= n_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps}: must be less than the {n_steps} steps of the "
                "run; shorten the warm-up or lengthen the run"
            )
        return dataclasses.replace(self, decay_steps=n_steps)

    def __call__(self, step: int) -> float:
        """The factor of step 0, 1, 2, ...; ValueError while decay_steps are needed and unknown."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.kind == "constant":
            return warm
        if self.decay_steps is None:
            raise ValueError(
                f"schedule={self.kind}: falls over a run whose steps are not known yet"
            )
        progress = min(1.0, max(0, step - self.decay_start) / self.decay_steps)
        if self.kind == "exponential":
            return warm * self.final_fraction**progress
        falling = 1 - progress if self.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return warm * (self.final_fraction + (1 - self.final_fraction) * falling)
