"""The Wyckoff positions of the 230 space groups, computed from spglib's operations.

An operation maps x to W x + w. The points whose site-symmetry groups are conjugate make a Wyckoff
position; each of its points lies on one of finitely many (modulo lattice translations) flats

    F = {t + A u : u in R^d},    A (3, d) and t of whole numbers, t in 24ths,

which the operations map onto one another. Special points have coordinates in 8ths or 12ths and no
flat is steeper than (1, 2, 0), so the 24^3 points of a grid meet every position: they are sorted
into positions by their stabilisers. The letters are spglib's, read off a crystal with atoms at all
positions at once.

Settings are spglib's first of each group: monoclinic axis b, rhombohedral groups in hexagonal axes,
origin choice 1.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.structure import Floats, cell_matrix

Integers = NDArray[np.int64]

UNIT: Final = 24
"""Translations and the bases of flats are whole multiples of 1 / UNIT."""
SYSTEMS: Final = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
"""Last group of each crystal system; trigonal groups have hexagonal axes."""
LETTERS: Final = (*"abcdefghijklmnopqrstuvwxyz", "A")
"""Pmmm has 27 positions; A comes after z."""


@final
@dataclass(frozen=True, eq=False)
class Position:
    """A Wyckoff position of a group.

    Attributes:
        letter: a, b, ...
        multiplicity: points in the conventional cell.
        dimension: d, its free coordinates, 0..3.
        base: t (3,) in units of 1 / UNIT.
        frame: (3, 3), unimodular; its first d columns are A.
        inverse: of the frame: inverse @ (x - t) is u, then whole numbers, where x is on the flat.
    """

    letter: str
    multiplicity: int
    dimension: int
    base: Integers
    frame: Integers
    inverse: Integers

    @property
    def directions(self) -> Integers:
        """A, (3, d)."""
        return self.frame[:, : self.dimension]


@final
@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """A space group in its standard setting.

    Attributes:
        number: 1..230.
        hall: spglib's number of the setting.
        rotations: W (G, 3, 3), the centring translations' included.
        translations: w (G, 3), 0..UNIT - 1 in units of 1 / UNIT.
    """

    number: int
    hall: int
    rotations: Integers
    translations: Integers

    @property
    def system(self) -> str:
        return next(name for last, name in SYSTEMS if self.number <= last)

    @functools.cached_property
    def centring(self) -> Integers:
        """(C, 3) translations of the lattice in the cell, 0 among them, in units of 1 / UNIT."""
        return self.translations[(self.rotations == np.eye(3)).all((1, 2))]

    @functools.cached_property
    def primitive(self) -> Floats:
        """(3, 3) vectors of a primitive cell as rows, right-handed, in those of the cell."""
        vectors = [
            *(self.centring[1:] / UNIT),
            *np.eye(3),
            *(self.centring[1:] / UNIT - np.eye(3)[0]),
        ]
        for rows in itertools.combinations(vectors, 3):
            volume = float(np.linalg.det(np.array(rows))) * len(self.centring)
            if round(volume, 6) in (1, -1):
                return np.array(rows if volume > 0 else rows[::-1])
        raise AssertionError("centring translations and cell vectors span the lattice")

    @functools.cached_property
    def polar_axes(self) -> tuple[int, ...]:
        """Axes along which the origin is free: those that every operation leaves as they are."""
        fixed = (self.rotations == np.eye(3)).all(1).all(0)  # (3,): columns
        return tuple(np.flatnonzero(fixed).tolist())

    @functools.cached_property
    def positions(self) -> tuple[Position, ...]:
        """In the order of their letters, a first, the general one last."""
        flats = _flats(self.rotations, self.translations)
        letters = _letters(self, flats)
        order = sorted(range(len(flats)), key=lambda i: LETTERS.index(letters[i]))
        return tuple(Position(letters[i], *flats[i]) for i in order)

    def images(self, points: Floats) -> Floats:
        """(G, ..., 3) of points (..., 3), by every operation."""
        moved = np.einsum("gij,...j->g...i", self.rotations, points)
        shape = (-1, *[1] * (moved.ndim - 2), 3)
        return np.asarray(moved + (self.translations / UNIT).reshape(shape))


Flat = tuple[int, int, Integers, Integers, Integers]
"""Multiplicity, dimension, base, frame and its inverse."""


@functools.cache
def space_group_of(number: int) -> SpaceGroup:
    """The group 1..230; what it knows is computed once."""
    hall = _first_halls()[number]
    operations = _spglib("get_symmetry_from_database", hall)
    rotations = operations["rotations"].astype(np.int64)
    translations = np.rint(operations["translations"] * UNIT).astype(np.int64) % UNIT
    return SpaceGroup(number, hall, rotations, translations)


@functools.cache
def _first_halls() -> dict[int, int]:
    """By group, the number of spglib's first setting, in which it standardises cells."""
    halls: dict[int, int] = {}
    for hall in range(1, 531):
        halls.setdefault(_spglib("get_spacegroup_type", hall).number, hall)
    return halls


@functools.cache
def grid_points() -> Integers:
    """(UNIT^3, 3) points; point x is row x @ (UNIT^2, UNIT, 1)."""
    return np.indices((UNIT,) * 3).reshape(3, -1).T.astype(np.int64)


@functools.cache
def _simplest_first() -> Integers:
    """The grid's rows, small coordinates first."""
    grid = grid_points()
    return np.lexsort((grid[:, 2], grid[:, 1], grid[:, 0], grid.sum(1)))


def _flats(rotations: Integers, translations: Integers) -> list[Flat]:
    """One flat of each position, the one through its simplest point, the most special first."""
    grid, simplest = grid_points(), _simplest_first()
    images = _images_on_grid(rotations, translations)  # (G, points)
    fixed = images == np.arange(len(grid))
    orders = fixed.sum(0)  # of the site-symmetry groups
    left, flats = orders[simplest], []  # 0 where a position has been found
    while left.any():
        order = left.max()
        point = simplest[left.argmax()]
        dimension, frame = fixed_frame(rotations[fixed[:, point]])
        inverse = np.rint(np.linalg.inv(frame)).astype(np.int64)
        on = np.ones(len(grid), dtype=bool)
        for row in inverse[dimension:]:
            on &= _heights(row.tobytes()) == row @ grid[point] % UNIT
        found = np.zeros(len(grid), dtype=bool)
        found[images[:, on & (orders == order)]] = True
        left[found[simplest]] = 0
        base = grid[simplest[on[simplest].argmax()]]
        flats.append((len(rotations) // int(order), dimension, base, frame, inverse))
    return flats


def _images_on_grid(rotations: Integers, translations: Integers) -> NDArray[np.int16]:
    """(G, points): the row of the grid to which each operation takes each one."""
    images = np.empty((len(rotations), UNIT**3), dtype=np.int16)
    for image, rotation, translation in zip(images, rotations, translations.tolist(), strict=True):
        first, second, third = (
            _shifted_heights(row.tobytes(), shift)
            for row, shift in zip(rotation, translation, strict=True)
        )
        np.multiply(first, UNIT, out=image)
        image += second
        image *= UNIT
        image += third
    return images


@functools.cache
def _heights(row: bytes) -> NDArray[np.int16]:
    """(points,) row @ point, modulo UNIT."""
    heights = grid_points() @ np.frombuffer(row, dtype=np.int64) % UNIT
    return heights.astype(np.int16)


@functools.cache
def _shifted_heights(row: bytes, shift: int) -> NDArray[np.int16]:
    """(points,) row @ point + shift, modulo UNIT; operations share their rows."""
    return np.asarray((_heights(row) + np.int16(shift)) % UNIT)


def fixed_frame(rotations: Integers) -> tuple[int, Integers]:
    """(d, a unimodular matrix whose first d columns span what all rotations (S, 3, 3) fix)."""
    return _fixed_frame(np.unique(rotations, axis=0).tobytes())


@functools.cache
def _fixed_frame(rotations: bytes) -> tuple[int, Integers]:
    matrices = np.frombuffer(rotations, dtype=np.int64).reshape(-1, 3, 3)
    vectors = _short_vectors()
    kept = vectors[((matrices @ vectors.T) == vectors.T).all((0, 1))]  # (K, 3), 0 left out
    dimension = int(np.linalg.matrix_rank(kept)) if len(kept) else 0
    for inside in itertools.combinations(kept, dimension):
        for outside in itertools.combinations(vectors, 3 - dimension):
            frame = np.array([*inside, *outside]).T
            if abs(round(float(np.linalg.det(frame)))) == 1:
                return dimension, frame
    raise AssertionError("every primitive sublattice has a complement")


@functools.cache
def _short_vectors() -> Integers:
    """Whole vectors up to sign, the shortest and the least negative first."""
    every = [v for v in itertools.product(range(-2, 3), repeat=3) if v > (0, 0, 0)]
    every.sort(key=lambda v: (sum(map(abs, v)), sum(x < 0 for x in v), [-x for x in v]))
    return np.array(every)


def _letters(group: SpaceGroup, flats: list[Flat]) -> list[str]:
    """spglib's letter of each flat's position, from a crystal with an atom of another kind on each;
    twice on the general one, so that it has no symmetry beyond the group's."""
    rng = np.random.default_rng(group.number)
    chosen = [*range(len(flats)), len(flats) - 1, len(flats) - 1]
    points: list[Floats] = []
    kinds: list[int] = []
    first: list[int] = []  # atom of each orbit
    for kind, index in enumerate(chosen):
        multiplicity, dimension, base, frame, _ = flats[index]
        point = base / UNIT + frame[:, :dimension] @ rng.uniform(0.03, 0.47, dimension)
        orbit = distinct(group.images(point))
        assert len(orbit) == multiplicity
        first.append(len(points))
        points += [*orbit]
        kinds += [kind + 1] * multiplicity
    cell = (generic_cell(group.system), np.array(points), kinds)
    dataset = _spglib("get_symmetry_dataset", cell, symprec=1e-5, hall_number=group.hall)
    moved = np.array(points)[first] @ dataset.transformation_matrix.T + dataset.origin_shift
    letters = [""] * len(flats)
    for atom, point in zip(first, moved, strict=True):
        letters[_flat_of(group, flats, point)] = dataset.wyckoffs[atom]
    assert sorted(letters) == sorted(LETTERS[: len(flats)])
    return letters


def _flat_of(group: SpaceGroup, flats: list[Flat], point: Floats) -> int:
    """The most special flat on which some image of the point lies."""
    images = group.images(point)
    for index, (_, dimension, base, _, inverse) in enumerate(flats):
        beside = (images - base / UNIT) @ inverse[dimension:].T
        if (np.abs(beside - np.rint(beside)) < 1e-6).all(1).any():
            return index
    raise AssertionError("the last position is the general one")


def _spglib(function: str, *arguments: Any, **options: Any) -> Any:
    """What a function of spglib says."""
    import spglib  # of an extra: the tokenisers are imported without it

    from nqs.crystal.structures.symmetry import call_spglib

    return call_spglib(getattr(spglib, function), *arguments, **options)


def distinct(points: Floats, tolerance: float = 1e-6) -> Floats:
    """The points (P, 3) modulo whole numbers, each once, in [0, 1)."""
    wrapped = (points + tolerance) % 1.0 - tolerance
    _, index = np.unique(np.rint(wrapped / tolerance / 10), axis=0, return_index=True)
    return wrapped[np.sort(index)]


def generic_cell(system: str) -> Floats:
    """Vectors of a cell that has no more symmetry than its system."""
    lengths, angles = {
        "triclinic": ([10.0, 11.3, 12.7], [81.0, 84.0, 77.0]),
        "monoclinic": ([10.0, 11.3, 12.7], [90.0, 99.0, 90.0]),
        "orthorhombic": ([10.0, 11.3, 12.7], [90.0, 90.0, 90.0]),
        "tetragonal": ([10.0, 10.0, 12.7], [90.0, 90.0, 90.0]),
        "hexagonal": ([10.0, 10.0, 12.7], [90.0, 90.0, 120.0]),
        "cubic": ([10.0, 10.0, 10.0], [90.0, 90.0, 90.0]),
    }[system]
    return cell_matrix(np.array(lengths), np.array(angles))
