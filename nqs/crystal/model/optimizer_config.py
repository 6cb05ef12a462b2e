"""The section `optimizer` of a training's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

MUON: Final = 0.02
"""Its step size in short runs; measured in docs/crystals.md, with what it does in long ones."""
SHORT: Final = 1000
"""Steps of the longest run that is short."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, in short runs Muon for the matrices of the layers, with a cosine schedule."""

    learning_rate: Annotated[float, "1e-15 .. 1e6"] = 2e-3
    """Step size of AdamW at the top of the schedule, 1e-15 .. 1e6."""
    muon: Annotated[float, "1e-15 .. 1e6"] | Literal["auto"] | None = "auto"
    """Step size of Muon for the matrices between embedding and head at the top of the schedule,
    1e-15 .. 1e6; null: AdamW moves them too; auto: 0.02 in runs of at most 1000 steps, null in
    longer ones."""
    warmup_steps: Annotated[int, "0 .. 1000000000000"] | None = None
    """Steps over which step sizes first rise from 0, >= 0 and < train.steps; null: 50, or a tenth
    of a shorter run."""
    final_fraction: Annotated[float, "1e-9 .. 1"] = 0.02
    """Step sizes at the last step as a fraction of those at the top, 1e-9 .. 1."""
    weight_decay: Annotated[float, "0 .. 1e6"] = 0.1
    """Decay of the matrices of linear layers, per step and step size, >= 0."""
    beta1: Annotated[float, "0 .. 0.999999"] = 0.9
    """Decay of the mean gradient, 0 .. 0.999999."""
    beta2: Annotated[float, "0 .. 0.999999"] = 0.99
    """Decay of the mean squared gradient, 0 .. 0.999999."""
    clip_norm: Annotated[float, "1e-12 .. 1e12"] = 1.0
    """Longest gradient that is applied unscaled, 1e-12 .. 1e12."""

    def warmup(self, n_steps: int) -> int:
        """The steps of the warm-up of a run of n_steps."""
        return min(50, n_steps // 10) if self.warmup_steps is None else self.warmup_steps

    def muon_rate(self, n_steps: int) -> float | None:
        """The step size of Muon in a run of n_steps; None: AdamW moves all."""
        if self.muon == "auto":
            return MUON if n_steps <= SHORT else None
        return self.muon
