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
    """20 steps of 0.01 are 63 standard errors of their difference."""
    assert ends_at(falling(0.01, 400, 0.01, 0), 0.01) is None
    assert ends_at([-1.0 - 1e-9 * step for step in range(200)], 0.0) is None


def test_a_rise_and_a_standstill_end_it() -> None:
    assert ends_at([-1.0] * 100, 0.0) == LEAST_STEPS
    assert ends_at(falling(-0.01, 100, 0.01, 0), 0.01) == LEAST_STEPS


def test_a_plateau_is_seen_soon() -> None:
    """Chance per look to take noise for a descent: 2.3 %, so that among 200 series the number that
    passes step 40 is binomial, at most 14 of 200 but for a chance of 1e-4."""
    ends = [ends_at(falling(0.0, 120, 0.01, seed), 0.01) for seed in range(200)]
    late = [end for end in ends if end is None or end > LEAST_STEPS]
    assert 0 < len(late) <= 14
    assert all(end is not None for end in ends)


def test_what_the_noise_hides_ends_it() -> None:
    """And longer windows see slower descents: over 20 steps 4e-3 against a noise of 3.2e-3, over 60
    steps 1.2e-2 against 1.8e-3. A series of the first kind ends at step 40 with a chance of 0.77,
    so that fewer than 10 of 20 do with one of 3e-3; the second ends with one of 3e-6."""
    ended = [ends_at(falling(2e-4, 60, 0.01, seed), 0.01) for seed in range(20)]
    assert sum(end is not None for end in ended) >= 10
    energies, errors = falling(2e-4, 240, 0.01, 1), [0.01] * 240
    assert not no_longer_pays(energies, errors)


def test_steps_that_are_no_numbers_count_for_nothing() -> None:
    energies = [-1.0] * 60
    energies[45] = math.nan
    assert no_longer_pays(energies, [0.0] * 60)
    assert not no_longer_pays([math.nan] * 60, [0.0] * 60)
    assert not no_longer_pays([-1.0] * 60, [math.inf] * 60)


@pytest.mark.parametrize("n", [0, 1, LEAST_STEPS - 1])
def test_nothing_is_said_before_forty_steps(n: int) -> None:
    assert not no_longer_pays([-1.0] * n, [0.0] * n)
