"""Whether an optimisation still pays: its energies over two windows of steps.

With w = max(LEAST_WINDOW, n / 4) the length of a window after n steps, E_1 the mean energy of the
last w steps, E_0 that of the w before, s_1 and s_0 their standard errors (of independent steps),

    it no longer pays once   E_0 - E_1 <= SIGMAS sqrt(s_0^2 + s_1^2).

Windows that grow see ever slower descents; where none is left a step goes on by chance once in 40.
The answer depends on the history alone, so that a run that is resumed ends at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LEAST_STEPS: Final = 40
"""Steps before which nothing is judged."""
LEAST_WINDOW: Final = 20
"""Steps of a window at least; with noise of 1e-4 a step it sees a descent of 6e-5."""
SIGMAS: Final = 2.0


def no_longer_pays(energies: Sequence[float], errors: Sequence[float]) -> bool:
    """Whether the energy has stopped falling beyond its noise.

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
    return before[0] - last[0] <= SIGMAS * math.hypot(before[1], last[1])


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
