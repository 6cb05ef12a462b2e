"""The orbits of a space group on a grid of free coordinates, all in whole numbers.

A point of Wyckoff position k is  t + A u  with u = n / bins, n whole: it is written as (k, n). Two
pairs may name the same orbit; by an operation (W, w) that takes the flat onto itself, n becomes

    R n + r,    R = (M W A)[:d],  r = (M (W t + w - t))[:d],    M = (A | B)^-1.

And n is special, with fewer points in its orbit, where an operation that moves the flat's generic
points leaves the point alone:  (W - 1) (t + A u) + w  is a lattice vector. Whichever coordinate
is the last that such a congruence depends on is the one that must avoid it.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.normaliser import normaliser
from nqs.crystal.structures.structure import CrystalError, Floats
from nqs.crystal.structures.wyckoff_positions import UNIT, Integers, SpaceGroup, space_group_of

ON_FLAT: Final = 0.005
"""By how much of a cell vector an atom may lie beside its flat, for numerical noise alone."""
Free = tuple[int, ...]
"""The free coordinates n of an orbit."""


@final
@dataclass(frozen=True, eq=False)
class Renaming:
    """What a map of space makes of the orbits of a position.

    Attributes:
        position: index of the one that they have then.
        matrix, offset: n becomes matrix @ n + offset, (d, d) and (d,).
    """

    position: int
    matrix: Integers
    offset: Integers


@final
class SiteOrbits:
    """The orbits of a space group with free coordinates in 1 / bins.

    Attributes:
        group: the space group.
        bins: a multiple of 24.
        multiplicities: points of each position in the primitive cell.
        dimensions: free coordinates of each.
    """

    def __init__(self, number: int, bins: int) -> None:
        self.group: SpaceGroup = space_group_of(number)
        self.bins = bins
        positions = self.group.positions
        n_centring = len(self.group.centring)
        self.multiplicities = tuple(p.multiplicity // n_centring for p in positions)
        self.dimensions = tuple(p.dimension for p in positions)
        self._scale = bins // UNIT
        self._translations = self.group.translations * self._scale

    def points(self, position: int, free: Free) -> Integers:
        """(multiplicity or fewer, 3) points of the orbit in the conventional cell, in bins."""
        images = self.group.rotations @ self._point(position, free) + self._translations
        x, y, z = (images % self.bins).T
        numbers = np.unique((x * self.bins + y) * self.bins + z)  # of points, in their order
        return np.stack([*np.divmod(numbers // self.bins, self.bins), numbers % self.bins], axis=1)

    def allowed(self, position: int, prefix: Free) -> NDArray[np.bool_]:
        """(bins,): values of the next free coordinate after `prefix` that are not special."""
        values, special = np.arange(self.bins), np.zeros(self.bins, dtype=bool)
        columns, constants = self._congruences(position)[len(prefix)]
        if len(columns):
            reached = columns[:, :, : len(prefix)] @ np.array(prefix, dtype=np.int64) + constants
            rising = columns[:, :, len(prefix), None] * values  # (K, 3, bins)
            special = ((reached[:, :, None] + rising) % self.bins == 0).all(1).any(0)
        return ~special

    def is_generic(self, position: int, free: Free) -> bool:
        """Whether the orbit has as many points as its position."""
        return all(self.allowed(position, free[:place])[value] for place, value in enumerate(free))

    def nearest(self, position: int, point: Floats) -> Free:
        """The free coordinates nearest to an atom's place (3,), not special.

        Raises CrystalError if no image of the atom lies on the position's flat.
        """
        site = self.group.positions[position]
        along = (self.group.images(point) - site.base / UNIT) @ site.inverse.T  # (G, 3)
        beside = along[:, site.dimension :]
        away = np.abs(beside - np.rint(beside)).max(1, initial=0.0)
        if away.min() > ON_FLAT:
            raise CrystalError(
                f"space group {self.group.number}: no atom at {site.letter} lies where it should"
            )
        exact = along[away.argmin(), : site.dimension] * self.bins
        return self._rounded(position, exact)

    def _rounded(self, position: int, exact: Floats) -> Free:
        middle = np.rint(exact).astype(np.int64)
        for reach in (0, 1, 2):
            steps = np.array([*itertools.product(range(-reach, reach + 1), repeat=len(exact))])
            order = np.abs(middle + steps - exact).sum(1).argsort(kind="stable")
            for step in steps[order]:
                free = tuple(((middle + step) % self.bins).tolist())
                if self.is_generic(position, free):
                    return free
        raise CrystalError(
            f"space group {self.group.number}: free coordinates at "
            f"{self.group.positions[position].letter} are too near to special ones"
        )

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - as long-lived as the group
    def names(self, position: int, free: Free) -> tuple[Free, ...]:
        """All free coordinates that name this orbit, ascending."""
        if not free:
            return (free,)
        matrices, offsets = self._own_renamings(position)
        every = (matrices @ np.array(free, dtype=np.int64) + offsets) % self.bins
        return tuple(sorted({tuple(row) for row in every.tolist()}))

    @functools.cached_property
    def changes(self) -> tuple[tuple[Integers, tuple[Renaming, ...]], ...]:
        """Of each map of the normaliser: P, and what it makes of each position."""
        return tuple(
            (linear, tuple(self._renaming(k, linear, shift) for k in range(len(self.dimensions))))
            for linear, shift in normaliser(self.group.number)
        )

    def shifted(self, position: int, free: Free, shift: Integers) -> Free:
        """The same after a shift (3,) in bins along polar axes."""
        site = self.group.positions[position]
        moved = np.array(free, dtype=np.int64) + (site.inverse @ shift)[: site.dimension]
        return tuple((moved % self.bins).tolist())

    def _point(self, position: int, free: Free) -> Integers:
        site = self.group.positions[position]
        along = site.directions @ np.array(free, dtype=np.int64)
        return np.asarray(site.base * self._scale + along)

    @functools.cache  # noqa: B019
    def _congruences(self, position: int) -> tuple[tuple[Integers, Integers], ...]:
        """For each free coordinate, (columns (K, 3, d), constants (K, 3)): special are the n with
        columns @ n + constants = 0 (mod bins), which depend on none of the later coordinates."""
        site = self.group.positions[position]
        moves = self.group.rotations - np.eye(3, dtype=np.int64)
        columns = moves @ site.directions  # (G, 3, d)
        constants = (moves @ site.base * self._scale + self._translations) % self.bins
        rows = np.concatenate([columns.reshape(-1, 3 * site.dimension), constants], axis=1)
        rows = np.unique(rows, axis=0)
        columns = rows[:, :-3].reshape(-1, 3, site.dimension)
        depends = (columns != 0).any(1)  # (K, d)
        last = np.where(depends, np.arange(1, site.dimension + 1), 0).max(1, initial=0)
        return tuple(
            (columns[last == place + 1], rows[last == place + 1, -3:])
            for place in range(site.dimension)
        )

    @functools.cache  # noqa: B019
    def _own_renamings(self, position: int) -> tuple[Integers, Integers]:
        """(S, d, d) and (S, d) of the operations that take the flat onto itself."""
        _, matrices, offsets = self._onto(position, position, np.eye(3, dtype=np.int64), 0)
        d = self.dimensions[position]
        rows = np.concatenate([matrices.reshape(-1, d * d), offsets], axis=1)
        rows = np.unique(rows, axis=0)
        return rows[:, : d * d].reshape(-1, d, d), rows[:, d * d :]

    def _renaming(self, position: int, linear: Integers, shift: Integers) -> Renaming:
        kind = (self.multiplicities[position], self.dimensions[position])
        for other, (multiplicity, dimension) in enumerate(
            zip(self.multiplicities, self.dimensions, strict=True)
        ):
            if (multiplicity, dimension) == kind:
                onto, matrices, offsets = self._onto(position, other, linear, shift * self._scale)
                if onto:
                    return Renaming(other, matrices[0], offsets[0])
        raise AssertionError("the normaliser permutes the positions")

    def _onto(
        self, position: int, other: int, linear: Integers, shift: Integers | int
    ) -> tuple[int, Integers, Integers]:
        """How many operations, after the map, take the position's flat onto the other's, and the
        matrices (S, d, d) and offsets (S, d) by which n becomes what it is there."""
        source, goal = self.group.positions[position], self.group.positions[other]
        d = source.dimension
        turned = goal.inverse @ self.group.rotations @ linear @ source.directions  # (G, 3, d)
        start = linear @ source.base * self._scale + shift
        moved = self.group.rotations @ start + self._translations - goal.base * self._scale
        offsets = moved @ goal.inverse.T % self.bins  # (G, 3)
        fits = (turned[:, d:] == 0).all((1, 2)) & (offsets[:, d:] == 0).all(1)
        return int(fits.sum()), turned[fits, :d], offsets[fits, :d]


@functools.cache
def site_orbits(number: int, bins: int) -> SiteOrbits:
    """Those of the group 1..230; what it knows is computed once."""
    return SiteOrbits(number, bins)
