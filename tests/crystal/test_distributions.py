"""Wasserstein distances against closed forms."""

from __future__ import annotations

import math

import numpy as np
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, cubic, perovskite, rock_salt, rock_salt_primitive

from nqs.crystal.metrics.distributions import density_distance, elements_distance

SALT = rock_salt()


def test_no_distance_to_itself() -> None:
    samples = [SALT, caesium_chloride(), perovskite(4, 38, 22)]
    assert density_distance(samples, samples[::-1]) == 0
    assert density_distance([rock_salt_primitive()], [SALT]) < 1e-12  # the same crystal
    assert elements_distance(samples, samples * 3) < 1e-12


def test_one_against_one_is_the_difference() -> None:
    """NaCl weighs 2.163 g/cm^3."""
    assert_allclose(SALT.density, 2.163, atol=5e-3)
    twice = rock_salt(5.64 / 2 ** (1 / 3))
    assert_allclose(density_distance([twice], [SALT]), SALT.density)
    assert elements_distance([SALT], [perovskite(4, 38, 22)]) == 1


def test_numbers_of_elements_by_hand() -> None:
    """F = (1/2, 1, 1), G = (0, 2/3, 1) at one, two, three elements: W1 = 1/2 + 1/3."""
    iron = cubic(2.8, [26], [[0, 0, 0]])
    three = perovskite(4, 38, 22)
    assert_allclose(elements_distance([iron, SALT], [SALT, SALT, three]), 1 / 2 + 1 / 3)


def test_quantiles_are_matched() -> None:
    """Sets of one size: the mean difference of sorted values."""
    first = [rock_salt(a) for a in (5.0, 5.5, 6.0)]
    second = [rock_salt(a) for a in (6.2, 5.2, 5.8)]
    gaps = np.sort([s.density for s in first]) - np.sort([s.density for s in second])
    assert_allclose(density_distance(first, second), np.abs(gaps).mean())


def test_nothing_to_compare() -> None:
    assert math.isnan(density_distance([], [SALT]))
    assert math.isnan(elements_distance([], [SALT]))
