"""The section `optimizer` of a training's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a cosine schedule."""

    learning_rate: Annotated[float, "1e-15 .. 1e6"] = 2e-3
    """Step size at the top of the schedule, 1e-15 .. 1e6."""
    warmup_steps: Annotated[int, "0 .. 1000000000000"] = 50
    """Steps over which it first rises from 0, >= 0 and < train.steps."""
    final_fraction: Annotated[float, "1e-9 .. 1"] = 0.02
    """Learning rate at the last step as a fraction of learning_rate, 1e-9 .. 1."""
    weight_decay: Annotated[float, "0 .. 1e6"] = 0.1
    """Decay of the matrices of linear layers, per step and learning rate, >= 0."""
    beta1: Annotated[float, "0 .. 0.999999"] = 0.9
    """Decay of the mean gradient, 0 .. 0.999999."""
    beta2: Annotated[float, "0 .. 0.999999"] = 0.99
    """Decay of the mean squared gradient, 0 .. 0.999999."""
    clip_norm: Annotated[float, "1e-12 .. 1e12"] = 1.0
    """Longest gradient that is applied unscaled, 1e-12 .. 1e12."""
