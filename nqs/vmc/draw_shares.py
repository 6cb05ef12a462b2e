"""How the draws of a step are shared among its couplings: by where the variance is expected.

The mean energy of C couplings with n_c draws each has the variance sum_c V_c / (C^2 n_c), least
where n_c is proportional to sqrt(V_c), V_c the variance of the local energy. Of fresh couplings it
is not known yet, but it varies smoothly: with x the scaled couplings,

    ln V_c = a + sum_k (beta_k x_k + gamma_k x_k^2),

a another one at each step, beta and gamma fitted to all steps before, older ones counting less.
Disorder is left out: of many independent numbers none says much about the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor

KEPT: Final = 0.9
"""Of the weight of a step at the next one."""
RIDGE: Final = 1.0
MOST: Final = 4.0
"""Times the mean that a coupling may have, and its inverse the least."""
LEAST_DRAWS: Final = 2


@final
class DrawShares:
    """Equal ones until something was measured.

    Args:
        numbers: places among the numbers of couplings (n,), scaled to -1 .. 1, of those that the
            variance is fitted by.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = list(numbers)
        n = 2 * len(self._numbers)
        self._metric = torch.zeros(n, n, dtype=torch.float64)
        self._right = torch.zeros(n, dtype=torch.float64)

    def of(self, x: Tensor, n_draws: int) -> list[int]:
        """Draws of each of couplings x (C, n), n_draws in all, at least two each. Raises ValueError
        where these are too few."""
        if n_draws < LEAST_DRAWS * len(x):
            raise ValueError(f"{n_draws} draws are fewer than two for each of {len(x)} couplings")
        shift = RIDGE * torch.eye(len(self._right), dtype=torch.float64)
        slopes = torch.linalg.solve(self._metric + shift, self._right)
        half = (self._features(x) @ slopes / 2).exp()
        half = (half / half.mean()).clamp(1 / MOST, MOST)
        left = n_draws - LEAST_DRAWS * len(x)
        ends = (half.cumsum(0) / half.sum() * left).round().long()
        own = torch.diff(ends, prepend=ends.new_zeros(1)) + LEAST_DRAWS
        return [int(n) for n in own]

    def see(self, x: Tensor, variances: Tensor) -> None:
        """The variances (C,) that a step found at couplings x (C, n)."""
        known = (variances > 0) & variances.isfinite()
        features = self._features(x[known])
        logs = variances[known].to("cpu", torch.float64).log()
        self._metric *= KEPT
        self._right *= KEPT
        if len(logs) > 1:
            features, logs = features - features.mean(0), logs - logs.mean()
            self._metric += features.T @ features
            self._right += features.T @ logs

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self._metric.clone(), "right": self._right.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for numbers of other couplings."""
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape or state[name].dtype != own.dtype:
                raise ValueError(f"{name} is of other couplings")
        self._metric, self._right = (state[name].cpu().clone() for name in ("metric", "right"))

    def _features(self, x: Tensor) -> Tensor:
        """(C, 2 n') float64."""
        own = x[:, self._numbers].to("cpu", torch.float64)
        return torch.cat([own, own.square()], dim=1)
