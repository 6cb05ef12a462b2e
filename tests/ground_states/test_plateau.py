"""When a stage of a growing array ends."""

from __future__ import annotations

import math
import random

import pytest

from nqs.ground_states.plateau import LEAST_STEPS, no_longer_pays


def falling(slope: float, n_steps: int, error: float, seed: int) -> list[float]:
    noise = random.Random(seed)
    return [-1.0 - slope * step + noise.gauss(0, error) for step in range(n_steps)]


def ends_at(energies: list[float], error: float) -> int | None:
    """The first step after which it says so."""
    return next(
        (n for n in range(len(energies) + 1) if no_longer_pays(energies[:n], [error] * n)), None
    )


def test_a_steady_descent_goes_on() -> None:
    """20 steps of 2e-4 are 4e-3 of the energy, and 60 standard errors of their difference."""
    assert ends_at(falling(2e-4, 400, 2e-4, 0), 2e-4) is None


def test_a_rise_and_a_standstill_end_it() -> None:
    assert ends_at([-1.0] * 100, 0.0) == LEAST_STEPS
    assert ends_at([1.0] * 100, 0.0) == LEAST_STEPS
    assert ends_at(falling(-0.01, 100, 1e-5, 0), 1e-5) == LEAST_STEPS


def test_the_unit_is_the_energy() -> None:
    """Windows of 20 steps fall by 1e-5 and by 4e-5 of it."""
    for scale in (1e-6, 1.0, 1e6):
        energies = falling(5e-7, 60, 0.0, 0)
        assert ends_at([scale * energy for energy in energies], 0.0) == LEAST_STEPS
        energies = falling(2e-6, 60, 0.0, 0)
        assert ends_at([scale * energy for energy in energies], 0.0) is None


def test_a_plateau_is_seen_once_the_noise_allows_it() -> None:
    """Noise of 2e-5 a step makes 2 sigma of two windows of 20 steps 1.3e-5 of the energy, so that a
    look takes a standstill for one with probability 0.88, and 150 of 200 series but for one of
    1e-7. Noise of 1e-2 hides it in windows of 60 steps: 3.7e-3."""
    ends = [ends_at(falling(0.0, 80, 2e-5, seed), 2e-5) for seed in range(200)]
    assert sum(end == LEAST_STEPS for end in ends) >= 150
    assert all(end is not None for end in ends)
    assert all(ends_at(falling(0.0, 240, 1e-2, seed), 1e-2) is None for seed in range(5))


def test_longer_windows_see_slower_descents() -> None:
    """6e-7 a step is 1.5e-5 of the energy in 25 steps, and 3e-5, not negligible, in 50."""
    descent = falling(6e-7, 400, 2e-7, 0)
    assert no_longer_pays(descent[:100], [2e-7] * 100)
    assert not no_longer_pays(descent[:200], [2e-7] * 200)


def test_steps_that_are_no_numbers_count_for_nothing() -> None:
    energies = [-1.0] * 60
    energies[45] = math.nan
    assert no_longer_pays(energies, [0.0] * 60)
    assert not no_longer_pays([math.nan] * 60, [0.0] * 60)
    assert not no_longer_pays([-1.0] * 60, [math.inf] * 60)


@pytest.mark.parametrize("n", [0, 1, LEAST_STEPS - 1])
def test_nothing_is_said_before_forty_steps(n: int) -> None:
    assert not no_longer_pays([-1.0] * n, [0.0] * n)
