"""Wyckoff positions, normalisers, orbits: laws, and what the International Tables say."""

from __future__ import annotations

import itertools

import gemmi
import numpy as np
import pytest
import spglib

from nqs.crystal.structures.normaliser import normaliser
from nqs.crystal.structures.site_orbits import site_orbits
from nqs.crystal.structures.structure import CrystalError
from nqs.crystal.structures.symmetry import call_spglib
from nqs.crystal.structures.wyckoff_positions import LETTERS, UNIT, space_group_of
from nqs.crystal.tokens.reachable_formulas import ReachableFormulas, formulas_of

BINS = 120
SOME = (1, 2, 8, 14, 43, 47, 62, 70, 98, 122, 146, 160, 176, 194, 198, 216, 227)

some = pytest.mark.parametrize("number", SOME)


def generic(number: int, position: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Free coordinates that are not special, by chance."""
    table, free = site_orbits(number, BINS), ()
    for _ in range(table.dimensions[position]):
        allowed = np.flatnonzero(table.allowed(position, free))
        free = (*free, int(rng.choice(allowed)))
    return free


@pytest.mark.parametrize(
    ("number", "letters"),
    [  # International Tables A: multiplicity, letter, free coordinates
        (225, "4a0 4b0 8c0 24d0 24e1 32f1 48g1 48h1 48i1 96j2 96k2 192l3"),
        (194, "2a0 2b0 2c0 2d0 4e1 4f1 6g0 6h1 12i1 12j2 12k2 24l3"),
        (62, "4a0 4b0 4c2 8d3"),
        (14, "2a0 2b0 2c0 2d0 4e3"),
        (166, "3a0 3b0 6c1 9d0 9e0 18f1 18g1 18h2 36i3"),
        (227, "8a0 8b0 16c0 16d0 32e1 48f1 96g2 96h1 192i3"),
        (8, "2a2 4b3"),
        (1, "1a3"),
    ],
)
def test_positions_of_the_tables(number: int, letters: str) -> None:
    positions = space_group_of(number).positions
    found = [f"{p.multiplicity}{p.letter}{p.dimension}" for p in positions]
    assert found == letters.split()


@pytest.mark.parametrize(
    ("number", "letter", "point"),
    [
        (225, "b", (1 / 2, 1 / 2, 1 / 2)),
        (225, "c", (1 / 4, 1 / 4, 1 / 4)),
        (225, "e", (0.1, 0, 0)),
        (194, "a", (0, 0, 0)),
        (194, "b", (0, 0, 1 / 4)),
        (194, "c", (1 / 3, 2 / 3, 1 / 4)),
        (194, "f", (1 / 3, 2 / 3, 0.1)),
        (62, "c", (0.1, 1 / 4, 0.2)),
        (47, "z", (0.1, 0.2, 1 / 2)),
        (47, "A", (0.1, 0.2, 0.3)),
        (227, "d", (5 / 8, 5 / 8, 5 / 8)),  # origin choice 1: 16d and 16c change with the origin
        (227, "e", (0.1, 0.1, 0.1)),
    ],
)
def test_points_of_the_tables(number: int, letter: str, point: tuple[float, ...]) -> None:
    position = LETTERS.index(letter)
    table = site_orbits(number, BINS)
    free = table.nearest(position, np.array(point))
    bins = np.rint(np.array(point) * BINS).astype(int) % BINS
    assert (table.points(position, free) == bins).all(1).any()


@pytest.mark.slow
def test_all_positions_of_all_groups() -> None:
    """1731 in the International Tables; Pmmm has the most, 27."""
    sizes = {number: len(space_group_of(number).positions) for number in range(1, 231)}
    assert sum(sizes.values()) == 1731 and max(sizes, key=lambda number: sizes[number]) == 47
    assert sizes[47] == 27


@some
def test_operations_are_those_of_gemmi(number: int) -> None:
    """spglib's, against those that another library makes of the Hall symbol."""
    group = space_group_of(number)
    symbol = call_spglib(spglib.get_spacegroup_type, group.hall).hall_symbol
    theirs = {
        (*np.array(op.rot).ravel() // op.DEN, *(np.array(op.tran) % op.DEN * UNIT // op.DEN))
        for op in gemmi.symops_from_hall(symbol)
    }
    rows = zip(group.rotations, group.translations, strict=True)
    assert {(*rotation.ravel(), *translation) for rotation, translation in rows} == theirs


@some
def test_orbits(number: int) -> None:
    """As many points as the multiplicity says, closed under the operations, whatever the name; the
    slow twin in floating point."""
    rng, table = np.random.default_rng(number), site_orbits(number, BINS)
    group = table.group
    for position, site in enumerate(group.positions):
        free = generic(number, position, rng)
        points = table.points(position, free)
        assert len(points) == site.multiplicity
        assert site.multiplicity == table.multiplicities[position] * len(group.centring)
        images = np.rint(group.images(points / BINS) * BINS).astype(int).reshape(-1, 3) % BINS
        np.testing.assert_array_equal(np.unique(images, axis=0), points)
        place = points[rng.integers(len(points))] / BINS
        assert table.nearest(position, place) in table.names(position, free)
        for name in table.names(position, free):
            np.testing.assert_array_equal(table.points(position, name), points)


@some
def test_special_coordinates_are_those_with_fewer_points(number: int) -> None:
    """Against counting, for all n of one coordinate and for 300 of more."""
    rng, table = np.random.default_rng(number), site_orbits(number, BINS)
    for position, site in enumerate(table.group.positions):
        if site.dimension == 0:
            continue
        every = [(n,) for n in range(BINS)]
        if site.dimension > 1:  # multiples of 1/24 are special more often
            every = [*map(tuple, (rng.integers(0, 24, (300, site.dimension)) * 5).tolist())]
        for free in every:
            full = len(table.points(position, free)) == site.multiplicity
            assert table.is_generic(position, free) == full


@some
def test_no_prefix_is_a_dead_end(number: int) -> None:
    """After any allowed coordinates some value is allowed: of 40 draws at least half of all are."""
    rng, table = np.random.default_rng(number), site_orbits(number, BINS)
    for position, dimension in enumerate(table.dimensions):
        for _ in range(40):
            free = generic(number, position, rng)
            for place in range(dimension):
                assert table.allowed(position, free[:place]).sum() >= BINS / 2


@some
def test_one_name_per_orbit(number: int) -> None:
    """Of a position with one coordinate: two names of the same points are among each other's."""
    table = site_orbits(number, BINS)
    for position, dimension in enumerate(table.dimensions):
        if dimension == 1:
            by_points: dict[bytes, set[tuple[int, ...]]] = {}
            for n in np.flatnonzero(table.allowed(position, ())).tolist():
                points = table.points(position, (n,)).tobytes()
                by_points.setdefault(points, set()).add((n,))
            for names in by_points.values():
                assert all({*table.names(position, name)} == names for name in names)


@pytest.mark.parametrize(
    ("number", "index"),
    [  # of G in its Euclidean normaliser (Tables A, 15.2), over 2 where it is without inversion
        (1, 1),  # every shift is along a polar axis
        (2, 8),
        (14, 8),
        (19, 48),  # 8 x 6 axes
        (47, 48),
        (62, 8),
        (166, 2),
        (187, 12),
        (194, 2),
        (216, 8),
        (225, 2),
        (229, 1),
    ],
)
def test_sizes_of_normalisers(number: int, index: int) -> None:
    assert len(normaliser(number)) == index


@some
def test_normalisers_permute_orbits(number: int) -> None:
    """P x + p of the points of an orbit are those of the orbit that it becomes."""
    rng, table = np.random.default_rng(number), site_orbits(number, BINS)
    pairs = zip(normaliser(number), table.changes, strict=True)
    for (linear, shift), (same, renamings) in pairs:
        np.testing.assert_array_equal(linear, same)
        assert round(float(np.linalg.det(linear))) == 1
        assert sorted(r.position for r in renamings) == [*range(len(renamings))]
        for position, renaming in enumerate(renamings):
            free = generic(number, position, rng)
            moved = table.points(position, free) @ linear.T + shift * (BINS // UNIT)
            name = renaming.matrix @ np.array(free, dtype=int) + renaming.offset
            expected = table.points(renaming.position, tuple((name % BINS).tolist()))
            np.testing.assert_array_equal(np.unique(moved % BINS, axis=0), expected)


def test_an_atom_beside_its_position_is_refused() -> None:
    with pytest.raises(CrystalError, match="space group 225: no atom at a lies where"):
        site_orbits(225, BINS).nearest(0, np.array([0.02, 0.0, 0.0]))


def test_rounding_avoids_special_coordinates() -> None:
    """In Fm-3m x 0 0 with x = 0.003 is 1 bin from the special 0, which it rounds to."""
    table = site_orbits(225, BINS)
    (n,) = table.nearest(LETTERS.index("e"), np.array([0.003, 0.0, 0.0]))
    assert n in (1, BINS - 1)


def brute_force(formulas: ReachableFormulas, counts: tuple[int, ...], used: set[int]) -> bool:
    """All ways to give the first element an orbit, and so on."""
    if not any(counts):
        return True
    first = next(place for place, n in enumerate(counts) if n)
    for site, (size, once) in enumerate(zip(formulas.multiplicities, formulas.single, strict=True)):
        if size <= counts[first] and not (once and site in used):
            after = (*counts[:first], counts[first] - size, *counts[first + 1 :])
            if brute_force(formulas, after, used | {site}):
                return True
    return False


@pytest.mark.parametrize("number", [14, 62, 187, 194, 216, 221, 225, 227])
def test_reachable_formulas(number: int) -> None:
    formulas, answers = formulas_of(number), set()
    for counts in itertools.product(range(7), repeat=3):
        used = {0} if sum(counts) % 2 else set()
        expected = brute_force(formulas, counts, used)
        assert formulas.reaches(counts, used) == expected
        answers.add(expected)
    assert answers == ({True} if number == 187 else {True, False})  # 187 has six sites of one atom
