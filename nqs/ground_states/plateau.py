"""Whether an optimisation still pays: its energies over two windows of steps.

With w = max(LEAST_WINDOW, n / 4) the length of a window after n steps, E_1 the mean energy of the
last w steps, E_0 that of the w before, s_1 and s_0 their standard errors (of independent steps),

    it no longer pays once   max(E_0 - E_1, 0) + SIGMAS sqrt(s_0^2 + s_1^2) <= NEGLIGIBLE |E_1|,

that is, once the descent is known to be negligible; one that hides in the noise is none that is
known. Parameters that are carried over to a larger array raise its energy by more, 1e-3 of itself
and up (docs/decisions.md, Growing arrays). The answer depends on the history alone, so that a run
that is resumed ends at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LEAST_STEPS: Final = 40
"""Steps before which nothing is judged."""
LEAST_WINDOW: Final = 20
"""Steps of a window at least."""
SIGMAS: Final = 2.0
NEGLIGIBLE: Final = 2e-5
"""Descent over a window, of the energy, that does not pay."""


def no_longer_pays(energies: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether the energy falls no longer, or negligibly.

    energies, errors: (n,) of all steps so far, in order, and their standard errors, in one unit.
    Steps that are no numbers are left out of their window; False while a window has none.
    """
    n_steps = len(energies)
    if n_steps < LEAST_STEPS:
        return False
    window = max(LEAST_WINDOW, n_steps // 4)
    last = _mean(energies[-window:], errors[-window:])
    before = _mean(energies[-2 * window : -window], errors[-2 * window : -window])
    if last is None or before is None:
        return False
    descent = max(before[0] - last[0], 0.0)
    return descent + SIGMAS * math.hypot(before[1], last[1]) <= NEGLIGIBLE * abs(last[0])


def _mean(energies: Sequence[float], errors: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard error of the steps that are numbers; None where there are none."""
    pairs = [
        (energy, error)
        for energy, error in zip(energies, errors, strict=True)
        if math.isfinite(energy) and math.isfinite(error)
    ]
    if not pairs:
        return None
    mean = math.fsum(energy for energy, _ in pairs) / len(pairs)
    return mean, math.sqrt(math.fsum(error**2 for _, error in pairs)) / len(pairs)
