"""A crystal as its space group, its orbits and the shape and size of its cell, in whole numbers.

The cell is written by its volume an atom, which the elements nearly decide, and by what the crystal
system leaves free of its shape: with r_b = b / a, r_c = c / a, A atoms and C lattice points in the
conventional cell,

    a^3 r_b r_c f(alpha, beta, gamma) = C A size^3,    f = V / (a b c).

Of a crystal there are many descriptions in the standard setting of its group: by every map of the
proper normaliser (nqs.crystal.structures.normaliser), by every shift of the origin along polar axes
and by every name of an orbit (nqs.crystal.structures.site_orbits). Canonical is the least one:

1. every orbit by its least name; orbits by element, the most electropositive first, then by
   position (a first), then by name;
2. along polar axes the origin stands at an atom of the rarest element;
3. of all descriptions of that kind, the first by (positions, a <= b <= c where they may change
   places, names): so crystals of one structure type are written at the same positions.

So it depends on the crystal alone, not on where it stands, on its cell or on the order of atoms.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nqs.crystal.structures.elements import formula_order
from nqs.crystal.structures.site_orbits import Free, SiteOrbits, site_orbits
from nqs.crystal.structures.structure import (
    CrystalError,
    Floats,
    Structure,
    cell_matrix,
    cell_parameters,
    composition_of,
)
from nqs.crystal.structures.wyckoff_positions import Integers
from nqs.crystal.tokens.coordinate_fields import (
    ANGLES,
    N_BINS,
    RATIOS,
    SIZES,
    WIDEST,
    check_angles,
)

if TYPE_CHECKING:
    import spglib

FREE_RATIOS: Final = {
    "triclinic": (1, 2),
    "monoclinic": (1, 2),
    "orthorhombic": (1, 2),
    "tetragonal": (2,),
    "hexagonal": (2,),
    "cubic": (),
}
"""Which of b / a, c / a are written; the others are 1."""
FREE_ANGLES: Final = {"triclinic": (0, 1, 2), "monoclinic": (1,)}
"""Which of alpha, beta, gamma are written; the others are 90 degrees, or gamma 120."""


@dataclass(frozen=True, order=True)
class Orbit:
    """The atoms of an element at a Wyckoff position: their place in the order of formulas, the
    position (0 is a), and its free coordinates in bins."""

    rank: tuple[float, int]
    position: int
    free: Free

    @property
    def element(self) -> int:
        """Atomic number."""
        return self.rank[1]


@dataclass(frozen=True)
class Description:
    """A crystal.

    Attributes:
        group: 1..230.
        size: of an atom, a number of the grid SIZES.
        ratios, angles: the free ones, as numbers of the grids RATIOS and ANGLES.
        orbits: in the order in which they are written.
    """

    group: int
    size: int
    ratios: tuple[int, ...]
    angles: tuple[int, ...]
    orbits: tuple[Orbit, ...]

    @property
    def n_atoms(self) -> int:
        """In the primitive cell."""
        sizes = table_of(self.group).multiplicities
        return sum(sizes[orbit.position] for orbit in self.orbits)

    @property
    def structure_type(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The group, and the element and position of each orbit."""
        return self.group, tuple((orbit.element, orbit.position) for orbit in self.orbits)

    @property
    def composition(self) -> dict[int, int]:
        """Of the primitive cell."""
        sizes = table_of(self.group).multiplicities
        every = [[orbit.element] * sizes[orbit.position] for orbit in self.orbits]
        return composition_of(itertools.chain.from_iterable(every))


def table_of(group: int) -> SiteOrbits:
    """The orbits of the group 1..230 with the free coordinates of the tokens."""
    return site_orbits(group, N_BINS)


def describe(structure: Structure, tolerance: float | None = None) -> Description:
    """The canonical description; the tolerance, in Angstrom, is that of canonical cells by default.
    Raises CrystalError for what has none."""
    from nqs.crystal.structures.symmetry import TOLERANCE, symmetry_of  # spglib is of an extra

    dataset = symmetry_of(structure, TOLERANCE if tolerance is None else tolerance)
    if dataset is None:
        raise CrystalError("spglib finds no space group (atoms on one another)")
    table = table_of(dataset.number)
    n_primitive = len(dataset.std_types) // len(table.group.centring)
    if n_primitive != structure.n_atoms:
        n_cells = structure.n_atoms / n_primitive
        raise CrystalError(f"its cell holds {n_cells:g} primitive cells: only primitive ones are "
                           f"written, as data.canonical=true makes them")  # fmt: skip
    lattice = _lattice(table, dataset.std_lattice, n_primitive)
    sites = _sites(table, dataset)
    found = []
    for shift in _origins(table, sites):
        orbits = [
            Orbit(formula_order(element), position, table.nearest(position, place + shift))
            for element, position, place in sites
        ]
        found.append(canonical_of(Description(dataset.number, *lattice, tuple(orbits))))
    return min(found, key=_key)


def described_without_symmetry(structure: Structure) -> Description:
    """In the group P1, the cell Niggli-reduced, each atom an orbit; canonical."""
    from nqs.crystal.structures.symmetry import canonical

    reduced = canonical(structure, primitive=False)
    table = table_of(1)
    lattice = _lattice(table, reduced.matrix, reduced.n_atoms)
    orbits = tuple(
        Orbit(formula_order(element), 0, table.nearest(0, place))
        for element, place in zip(reduced.numbers.tolist(), reduced.positions, strict=True)
    )
    return canonical_of(Description(1, *lattice, orbits))


def canonical_of(description: Description) -> Description:
    """The least of the descriptions of the same crystal."""
    table = table_of(description.group)
    candidates = (
        _changed(table, description, change, shift)
        for shift in _integer_origins(table, description)
        for change in range(len(table.changes))
    )
    return min(candidates, key=_key)


def equivalents(description: Description) -> Iterator[Description]:
    """Every description of the same crystal in the standard setting, each once, with orbits in
    order; a polar axis alone makes N_BINS times as many."""
    table = table_of(description.group)
    seen = set()
    for steps in itertools.product(range(N_BINS), repeat=len(table.group.polar_axes)):
        shift = _along(table, steps)
        for change in range(len(table.changes)):
            least = _changed(table, description, change, shift)
            if least in seen:
                continue
            seen.add(least)
            names = [table.names(orbit.position, orbit.free) for orbit in least.orbits]
            renamed = set()
            for chosen in itertools.product(*names):
                orbits = (
                    Orbit(orbit.rank, orbit.position, free)
                    for orbit, free in zip(least.orbits, chosen, strict=True)
                )
                renamed.add(tuple(sorted(orbits)))
            for written in sorted(renamed):
                yield dataclasses.replace(least, orbits=written)


def equivalent(description: Description, rng: np.random.Generator) -> Description:
    """One of them by chance: map, origin along polar axes, and each orbit's name uniform."""
    table = table_of(description.group)
    shift = _along(table, rng.integers(N_BINS, size=len(table.group.polar_axes)).tolist())
    changed = _changed(table, description, int(rng.integers(len(table.changes))), shift)
    orbits = []
    for orbit in changed.orbits:
        names = table.names(orbit.position, orbit.free)
        orbits.append(Orbit(orbit.rank, orbit.position, names[rng.integers(len(names))]))
    return dataclasses.replace(changed, orbits=tuple(sorted(orbits)))


def structure_of(description: Description) -> Structure:
    """The crystal in its primitive Niggli-reduced cell, atoms in order. Raises CrystalError for
    angles that make no cell."""
    from nqs.crystal.structures.symmetry import canonical

    table = table_of(description.group)
    conventional = cell_matrix(*cell_of(description))
    primitive = table.group.primitive
    numbers, places = [], []
    back = np.rint(np.linalg.inv(primitive)).astype(np.int64)
    for orbit in description.orbits:
        points = np.unique(table.points(orbit.position, orbit.free) @ back % N_BINS, axis=0)
        numbers += [orbit.element] * len(points)
        places.append(points / N_BINS)
    parameters = cell_parameters(primitive @ conventional)
    whole = Structure(*parameters, np.array(numbers), np.concatenate(places))
    return canonical(whole, primitive=False)


def cell_of(description: Description) -> tuple[Floats, Floats]:
    """Lengths and angles of the conventional cell. Raises CrystalError if they make none."""
    group = table_of(description.group).group
    relative, angles = np.ones(3), np.full(3, 90.0)
    for axis, index in zip(FREE_RATIOS[group.system], description.ratios, strict=True):
        relative[axis] = RATIOS.values[index]
    if group.system == "hexagonal":
        angles[2] = 120.0
    for axis, index in zip(FREE_ANGLES.get(group.system, ()), description.angles, strict=True):
        angles[axis] = ANGLES.values[index]
    check_angles(angles, ANGLES.index(angles))
    volume = len(group.centring) * volume_of(description)
    of_shape = np.linalg.det(cell_matrix(relative, angles))  # with a = 1
    return relative * np.cbrt(volume / of_shape), angles


def volume_of(description: Description) -> float:
    """Of the primitive cell, in Angstrom^3."""
    return float(description.n_atoms * SIZES.values[description.size] ** 3)


def size_of(volume: float, n_atoms: int) -> int:
    """The number on the grid SIZES of a primitive cell with so many atoms. Raises CrystalError for
    those beyond it."""
    return int(SIZES.index(np.cbrt(volume / n_atoms)))


def _lattice(
    table: SiteOrbits, cell: Floats, n_atoms: int
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Size, free ratios and free angles of the standard cell (vectors as rows) of a crystal with so
    many atoms in its primitive one, on their grids. Raises CrystalError for those beyond them."""
    system = table.group.system
    lengths, angles = cell_parameters(cell)
    rounded = ANGLES.index(angles)
    check_angles(angles, rounded)
    size = size_of(abs(float(np.linalg.det(cell))) / len(table.group.centring), n_atoms)
    RATIOS.index(lengths / lengths[:, None])  # whichever axis is a
    ratios = RATIOS.index(lengths / lengths[0])[list(FREE_RATIOS[system])]
    free_angles = rounded[list(FREE_ANGLES.get(system, ()))]
    return size, tuple(ratios.tolist()), tuple(free_angles.tolist())


def _sites(table: SiteOrbits, dataset: spglib.SpglibDataset) -> list[tuple[int, int, Floats]]:
    """Element, position and the place of one atom of each orbit in the standard cell."""
    letters = {site.letter: index for index, site in enumerate(table.group.positions)}
    primitive = dataset.mapping_to_primitive.tolist()
    orbit_of = dict(zip(primitive, dataset.crystallographic_orbits.tolist(), strict=True))
    letter_of = dict(zip(primitive, dataset.wyckoffs, strict=True))
    sites: dict[int, tuple[int, int, Floats]] = {}
    standard = dataset.std_mapping_to_primitive.tolist()
    for atom, place in enumerate(standard):
        element, at = int(dataset.std_types[atom]), dataset.std_positions[atom]
        sites.setdefault(orbit_of[place], (element, letters[letter_of[place]], at))
    return list(sites.values())


def _rarest(counts: dict[int, int]) -> int:
    """The element with the fewest atoms, the most electropositive of several."""
    return min(counts, key=lambda element: (counts[element], formula_order(element)))


def _origins(table: SiteOrbits, sites: list[tuple[int, int, Floats]]) -> list[Floats]:
    """Shifts (3,) that bring an atom of the rarest element to 0 along the polar axes."""
    axes = list(table.group.polar_axes)
    if not axes:
        return [np.zeros(3)]
    counts: dict[int, int] = {}
    for element, position, _ in sites:
        counts[element] = counts.get(element, 0) + table.multiplicities[position]
    chosen = [place for element, _, place in sites if element == _rarest(counts)]
    points = np.concatenate([table.group.images(place) for place in chosen])
    shifts = np.zeros_like(points)
    shifts[:, axes] = -points[:, axes] % 1.0
    return [*np.unique(np.round(shifts, 9), axis=0)]


def _integer_origins(table: SiteOrbits, description: Description) -> list[Integers]:
    """The same of a description, in bins."""
    axes = list(table.group.polar_axes)
    if not axes:
        return [np.zeros(3, dtype=np.int64)]
    rarest = _rarest(description.composition)
    points = np.concatenate(
        [table.points(o.position, o.free) for o in description.orbits if o.element == rarest]
    )
    shifts = np.zeros_like(points)
    shifts[:, axes] = -points[:, axes] % N_BINS
    return [*np.unique(shifts, axis=0)]


def _along(table: SiteOrbits, steps: tuple[int, ...] | list[int]) -> Integers:
    """A shift (3,) by so many bins along each polar axis."""
    shift = np.zeros(3, dtype=np.int64)
    shift[list(table.group.polar_axes)] = steps
    return shift


def _changed(
    table: SiteOrbits, description: Description, change: int, shift: Integers
) -> Description:
    """The description after a shift along polar axes and then a map of the normaliser, with the
    least names and in order."""
    linear, renamings = table.changes[change]
    ratios = description.ratios
    if len(ratios) == 2:  # else the lengths that may change places are equal
        steps = (WIDEST, *ratios)  # of a / a, b / a, c / a
        first, *others = (steps[axis] for axis in np.abs(linear).argmax(1).tolist())
        ratios = tuple(step - first + WIDEST for step in others)
    orbits = []
    for orbit in description.orbits:
        renaming = renamings[orbit.position]
        moved = table.shifted(orbit.position, orbit.free, shift) if shift.any() else orbit.free
        free = (renaming.matrix @ np.array(moved, dtype=np.int64) + renaming.offset) % N_BINS
        least = table.names(renaming.position, tuple(free.tolist()))[0]
        orbits.append(Orbit(orbit.rank, renaming.position, least))
    return dataclasses.replace(description, ratios=ratios, orbits=tuple(sorted(orbits)))


def _key(description: Description) -> tuple[Any, ...]:
    """Positions, a the shortest and then b, names."""
    ratios = description.ratios
    positions = [(orbit.rank, orbit.position) for orbit in description.orbits]
    return positions, -sum(ratios), ratios, description.orbits
