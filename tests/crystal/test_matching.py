"""Matching: known displacements, StructureMatcher on the raw structures, the tables by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from prototypes import (
    caesium_chloride,
    cubic,
    perovskite,
    rock_salt,
    rock_salt_primitive,
    shaken,
)

from nqs.crystal.metrics.matching import (
    Matcher,
    Tolerances,
    first_alike,
    match_all,
    reduced_composition,
    to_pymatgen,
)
from nqs.crystal.parallel import mapped
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError

pytest.importorskip("pymatgen")

SALT, CAESIUM = rock_salt(), caesium_chloride()


def rms(first: Structure, second: Structure) -> float:
    matcher = Matcher()
    return matcher.rms(matcher.reduced(first), matcher.reduced(second))


def test_one_crystal_in_many_guises() -> None:
    """Another cell, another size, moved, atoms in another order: no displacement."""
    shuffled = SALT.ordered(np.array([7, 2, 5, 0, 1, 6, 3, 4]))
    for guise in (rock_salt_primitive(), rock_salt(9.0), SALT.shifted([0.1, 0.7, 0.3]), shuffled):
        assert rms(guise, SALT) < 1e-6
        matcher = Matcher()
        assert matcher.same(matcher.reduced(guise), matcher.reduced(SALT))


def test_known_displacement() -> None:
    """One of two atoms displaced by d: after the best shift both are d / 2 off, in units of
    (V / 2)^(1/3)."""
    moved = cubic(3.5, [11, 17], [[0, 0, 0], [0.55, 0.5, 0.5]])
    assert_allclose(rms(moved, CAESIUM), 0.025 * 2 ** (1 / 3), rtol=1e-9)


def test_what_does_not_match() -> None:
    assert math.isnan(rms(CAESIUM, SALT))  # another arrangement
    assert math.isnan(rms(rock_salt(cation=19), SALT))  # another element
    assert math.isnan(rms(cubic(4, [11, 17, 17], [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]), SALT))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([0.02, 0.06, 0.12]))
def test_structure_matcher_on_raw_structures_agrees(seed: int, size: float) -> None:
    """Reducing once changes neither verdict nor displacement (pymatgen's own path, as CDVAE)."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    rng = np.random.default_rng(seed)
    first = Structure.wrapped(
        rng.uniform(3, 6, 3), rng.uniform(65, 115, 3), [11, 17, 17, 26], rng.random((4, 3))
    )
    second = shaken(first, size, seed)
    raw = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    exact = raw.get_rms_dist(to_pymatgen(second), to_pymatgen(first))
    assert_allclose(rms(second, first), math.nan if exact is None else exact[0], rtol=1e-6)
    matcher = Matcher()
    verdict = matcher.same(matcher.reduced(second), matcher.reduced(first))
    assert verdict is bool(raw.fit(to_pymatgen(second), to_pymatgen(first)))


def test_a_needle_is_not_compared() -> None:
    """StructureMatcher would list 10^7 lattice points for it."""
    needle = Structure(
        np.array([0.6, 0.6, 500.0]), np.full(3, 90.0), np.array([11, 17]), np.array([[0.0] * 3] * 2)
    )
    needle = needle.shifted([[0, 0, 0], [0, 0, 0.3]])
    start = time.perf_counter()
    assert Matcher().reduced(needle) is None
    found = match_all([[needle, CAESIUM]], [CAESIUM], 2)
    assert found.not_compared == 1
    assert_allclose(found.own, [[math.nan, 0.0]], atol=1e-9)
    assert time.perf_counter() - start < 5


def test_composition_is_reduced() -> None:
    assert reduced_composition(SALT) == reduced_composition(CAESIUM) == ((11, 1), (17, 1))


def test_tables_by_hand() -> None:
    """Two polymorphs whose guesses came in the wrong order, and one composition never met."""
    references = [SALT, CAESIUM, rock_salt(cation=19)]
    near = cubic(3.5, [11, 17], [[0, 0, 0], [0.55, 0.5, 0.5]])
    guesses: list[list[Structure | None]] = [[near, SALT], [SALT, None], [None]]
    found = match_all(guesses, references, 2)
    off = 0.025 * 2 ** (1 / 3)
    nan = math.nan
    assert_allclose(found.own, [[nan, 0], [nan, nan], [nan, nan]], atol=1e-9)
    assert_allclose(found.nearest, [[0, 0], [off, off], [nan, nan]], atol=1e-9)
    assert found.not_compared == 0


def test_more_guesses_never_hurt() -> None:
    guesses = [[shaken(CAESIUM, 0.1, seed) for seed in range(6)]]
    found = match_all(guesses, [CAESIUM], 6)
    assert (np.diff(found.nearest[0]) <= 0).all()
    assert_allclose(found.nearest[0, -1], np.nanmin(found.own[0]))


def test_items_keep_their_order_over_processes() -> None:
    items = [float(i) for i in range(40)]
    assert list(mapped(math.sqrt, items, 2)) == [math.sqrt(item) for item in items]


@pytest.mark.slow  # each process imports pymatgen
def test_processes_do_not_change_the_result() -> None:
    references = [SALT, CAESIUM, perovskite(4, 38, 22)]
    guesses = [[shaken(reference, 0.02, 1)] for reference in references]
    alone, together = (match_all(guesses, references, 1, workers=w) for w in (1, 2))
    assert_array_equal(alone.own, together.own)
    assert_array_equal(alone.nearest, together.nearest)
    assert not np.isnan(alone.own).any()


def test_the_first_of_each_kind() -> None:
    matcher = Matcher()
    crystals = [SALT, CAESIUM, rock_salt_primitive(6.0), rock_salt(cation=19), SALT, CAESIUM]
    reduced = [matcher.reduced(crystal) for crystal in crystals]
    assert first_alike(reduced, matcher).tolist() == [0, 1, 0, 3, 0, 1]
    assert first_alike([None, None, reduced[0]], matcher).tolist() == [0, 1, 2]


def test_only_what_counts_matches() -> None:
    """Leaving a pair out shows in every later guess, and nowhere before it."""
    near = [shaken(CAESIUM, size, 3) for size in (0.08, 0.05, 0.02)]
    found = match_all([near, [SALT]], [CAESIUM, SALT], 3)
    left = found.only(lambda reference, guess: guess != (0, 2))
    assert math.isnan(left.own[0, 2]) and not math.isnan(found.own[0, 2])
    assert_array_equal(left.nearest[0], [*found.nearest[0, :2], found.nearest[0, 1]])
    assert_array_equal(left.nearest[1], found.nearest[1])
    assert np.isnan(found.only(lambda *pair: False).nearest).all()


def test_wrong_input() -> None:
    with pytest.raises(InputError, match="guesses=1: must be 2"):
        match_all([[SALT]], [SALT, CAESIUM], 1)
    with pytest.raises(InputError, match="stol=-1"):
        Tolerances(stol=-1)
