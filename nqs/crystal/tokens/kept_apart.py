"""Free coordinates that keep an orbit's atoms away from each other and from those that stand.

With all but the last coordinate of an orbit chosen, one of its atoms is at p(v) for the last
coordinate v. Symmetry maps any two atoms of which one is of this orbit onto a pair with that one,
so v keeps them apart if

    |(q - p(v)) C| >= d    for all other atoms q of the orbit and all q that stand,

C the cell's vectors; of q - p the nearest image in fractions of the Niggli-reduced cell is taken,
which is the nearest in space where d is small against that cell.
"""

from __future__ import annotations

from typing import final

import numpy as np
import spglib
from numpy.typing import NDArray

from nqs.crystal.structures.site_orbits import Free, SiteOrbits
from nqs.crystal.structures.structure import Floats
from nqs.crystal.structures.symmetry import call_spglib
from nqs.crystal.structures.wyckoff_positions import UNIT, Integers


@final
class KeptApart:
    """The atoms that stand in the conventional cell.

    Args:
        table: the orbits of the group.
        cell: (3, 3) vectors as rows, Angstrom.
        distance: d, Angstrom.
    """

    def __init__(self, table: SiteOrbits, cell: Floats, distance: float) -> None:
        reduced = call_spglib(spglib.niggli_reduce, cell)
        self._reduced = cell if reduced is None else reduced
        self._to_reduced = cell @ np.linalg.inv(self._reduced)
        self._table, self._distance = table, distance
        self._points = np.zeros((0, 3), dtype=np.int64)

    def add(self, position: int, free: Free) -> None:
        """An orbit."""
        self._points = np.concatenate([self._points, self._table.points(position, free)])

    def allowed(self, position: int, prefix: Free) -> NDArray[np.bool_]:
        """(bins,): values of the last free coordinate, after `prefix`, that keep atoms apart."""
        table, bins = self._table, self._table.bins
        site = table.group.positions[position]
        scale = bins // UNIT
        free = np.empty((bins, site.dimension), dtype=np.int64)
        free[:, :-1], free[:, -1] = prefix, np.arange(bins)
        points = site.base * scale + free @ site.directions.T  # (bins, 3)
        images = np.einsum("gij,vj->vgi", table.group.rotations, points)
        images += table.group.translations * scale
        own = self._squares(images - points[:, None])  # (bins, G)
        own[own < 1e-9] = np.inf  # the atom itself
        others = self._squares(self._points - points[:, None])  # (bins, atoms)
        nearest = np.minimum(own.min(1), others.min(1, initial=np.inf))
        return np.asarray(nearest >= self._distance**2)

    def _squares(self, steps: Integers) -> Floats:
        """Squared lengths (...) of steps (..., 3) in bins, of their nearest images."""
        fractions = steps @ (self._to_reduced / self._table.bins)
        fractions -= np.rint(fractions)
        return np.asarray(np.square(fractions @ self._reduced).sum(-1))
