"""peers.yaml, typed: the settings of each peer on each problem."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

SETTINGS = Path(__file__).parent / "peers.yaml"


@dataclass(frozen=True)
class RBMSettings:
    """NetKet's restricted Boltzmann machine with Metropolis sampling and SR; see peers.yaml."""

    alpha: float
    samples: int
    chains: int
    discard: int
    learning_rate: float
    final_learning_rate: float
    learning_rate_steps: int
    diagonal_shift: float
    final_diagonal_shift: float
    shift_steps: int
    momentum: float | None
    sample_space: bool | None


@dataclass(frozen=True)
class ARSettings:
    """NetKet's convolutional autoregressive model with Adam; see peers.yaml."""

    layers: int
    features: int
    kernel: int
    samples: int
    learning_rate: float


@dataclass(frozen=True)
class OlderSettings:
    """The older code's patched transformer; see peers.yaml."""

    patch: str
    width: int
    heads: int
    samples: int
    loops: int
    learning_rate: float


S = TypeVar("S", RBMSettings, ARSettings, OlderSettings)


def settings(kind: type[S], program: str, problem: str, path: Path = SETTINGS) -> S:
    """Those of `program` for all problems, changed by those for this one.

    Raises ValueError, one line, for missing or unknown keys.
    """
    content: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())[program]
    values = {**content["all"], **content.get(problem, {})}
    known = {field.name for field in fields(kind)}
    if set(values) != known:
        odd = ", ".join(sorted(set(values) ^ known))
        raise ValueError(f"{path.name}: {program}, {problem}: missing or unknown: {odd}")
    return kind(**values)
