"""The nearest known crystal: by hand, and against every pair compared without a short cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from prototypes import caesium_chloride, perovskite, rock_salt, rock_salt_primitive, shaken
from scipy.stats import wasserstein_distance

from nqs.crystal.metrics.matching import Matcher, reduced_composition
from nqs.crystal.metrics.nearest import Nearest, element_shares, nearest
from nqs.crystal.structures.elements import MENDELEEV
from nqs.crystal.structures.structure import Structure

for library in ("pymatgen", "smact", "spglib"):
    pytest.importorskip(library)

SALT, CAESIUM = rock_salt(), caesium_chloride()


def found(crystals: list[Structure], known: list[Structure]) -> list[Nearest]:
    matcher = Matcher()
    return nearest(crystals, [matcher.reduced(c) for c in crystals], known, matcher)


def exhaustive(crystal: Structure, known: list[Structure]) -> tuple[float, float, bool]:
    """(element distance, displacement, same) of the nearest, from every pair: scipy's Wasserstein
    distance of the atoms' numbers and StructureMatcher on the structures as they are."""
    numbers = [MENDELEEV[z - 1] for z in crystal.numbers.tolist()]
    distances = [
        wasserstein_distance(numbers, [MENDELEEV[z - 1] for z in other.numbers.tolist()])
        for other in known
    ]
    least = min(distances)
    matcher = Matcher()
    cell = matcher.reduced(crystal)
    tied = [o for o, d in zip(known, distances, strict=True) if d < least + 1e-9]
    rms = [matcher.rms(cell, matcher.reduced(other)) for other in tied]
    same = any(matcher.same(cell, matcher.reduced(other)) for other in known)
    return least, float(np.nanmin([*rms, math.inf])), same


def test_by_hand() -> None:
    known = [perovskite(4, 38, 22), rock_salt(cation=19), caesium_chloride(4.0), rock_salt(7.0)]
    salt, caesium, lithium = found([SALT, shaken(CAESIUM, 0.02, 1), rock_salt(5.1, 3)], known)
    assert (salt.index, salt.same, salt.element_distance) == (3, True, 0)
    assert salt.displacement < 1e-6
    assert caesium.index == 2 and caesium.same and 0 < caesium.displacement < 0.1
    assert lithium.index == 2 and not lithium.same, "LiCl: NaCl, the first of its composition"
    assert lithium.element_distance == 0.5 * abs(MENDELEEV[3 - 1] - MENDELEEV[11 - 1])
    assert math.isnan(lithium.displacement)


def test_every_pair_compared() -> None:
    rng = np.random.default_rng(4)
    elements = [3, 11, 19, 37, 12, 20]

    def drawn(n: int) -> list[Structure]:
        kinds = [rock_salt_primitive, caesium_chloride]
        return [
            shaken(kinds[rng.integers(2)](4.0, int(rng.choice(elements)), 17), 0.06, i)
            for i in range(n)
        ]

    crystals, known = drawn(12), drawn(10)
    results = found(crystals, known)
    for crystal, result in zip(crystals, results, strict=True):
        distance, rms, same = exhaustive(crystal, known)
        assert_allclose(result.element_distance, distance, atol=1e-12)
        if distance == 0:
            assert_allclose(np.nan_to_num(result.displacement, nan=math.inf), rms, rtol=1e-9)
        assert result.same is same
        assert not result.same or not math.isnan(result.displacement)
    assert 0 < sum(result.same for result in results) < len(results)


def test_shares_are_a_cumulative_distribution() -> None:
    shares = element_shares(reduced_composition(perovskite(4, 38, 22)))
    assert shares.shape == (103,) and shares[-1] == 1 and (np.diff(shares) >= 0).all()
    assert len({round(float(s), 12) for s in shares}) == 4  # 0 and three steps


def test_what_is_too_long_is_nearest_to_its_composition() -> None:
    needle = Structure(
        np.array([0.6, 0.6, 500.0]), np.full(3, 90.0), np.array([11, 17]), np.array([[0.0] * 3] * 2)
    ).shifted([[0, 0, 0], [0, 0, 0.3]])
    (result,) = found([needle], [rock_salt(cation=19), SALT])
    assert (result.index, result.element_distance, result.same) == (1, 0, False)
    assert math.isnan(result.displacement)
