"""Whether the energy of an optimisation rises by more than its noise.

The energies of the last w steps, W or at first those there are, have the mean M and the standard
error

    S = sqrt(max(s^2, mean of the steps' squared errors) / w)

with s^2 the variance of the w values. The lowest M so far, M0 with S0, is what the optimisation has
reached; it rises where M - M0 > Z sqrt(S^2 + S0^2). A single step with a rare configuration of huge
energy raises S as well as M and is no rise.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 10
"""W, steps."""
FEWEST = 3
"""Steps with a mean."""
SIGNIFICANT = 5.0
"""Z: M0 is the lowest of many means, itself some two errors too low."""
ROUNDING = 1e-7
"""Of the energy: less is no rise, whatever the errors are."""


class EnergyWatch:
    """Sees the energies of the steps one by one.

    Attributes:
        recent: (w, 2) energies and errors of the last w <= W steps.
        lowest: (2,) M0 and S0, empty before FEWEST steps.
    """

    def __init__(self) -> None:
        self.recent = torch.zeros(0, 2, dtype=torch.float64)
        self.lowest = torch.zeros(0, dtype=torch.float64)

    def add(self, energy: float, error: float) -> None:
        """One more step; error 0 if it is not known."""
        row = torch.tensor([[energy, error]], dtype=torch.float64)
        self.recent = torch.cat([self.recent, row])[-WINDOW:]

    def forget(self) -> None:
        """Begins afresh: what was lowest may have been luck, or not all that the state has."""
        self.recent, self.lowest = self.recent[:0], self.lowest[:0]

    def is_lowest(self) -> bool:
        """Whether the mean is the lowest so far, which is then kept."""
        now = self._mean()
        if now is None or (len(self.lowest) and now[0] >= self.lowest[0]):
            return False
        self.lowest = now
        return True

    def rises(self) -> bool:
        """Whether the mean is above the lowest by more than noise."""
        now = self._mean()
        if now is None or not len(self.lowest):
            return False
        noise = float((now[1].square() + self.lowest[1].square()).sqrt())
        least = SIGNIFICANT * noise + ROUNDING * abs(float(self.lowest[0]))
        return float(now[0] - self.lowest[0]) > least

    def _mean(self) -> Tensor | None:
        """M and S, None before FEWEST steps."""
        if len(self.recent) < FEWEST:
            return None
        energies, errors = self.recent.T
        spread = torch.maximum(energies.var(), errors.square().mean())
        return torch.stack([energies.mean(), (spread / len(energies)).sqrt()])
