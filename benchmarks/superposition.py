"""How far two descriptions of a crystal are apart: the oracle of round trips.

Both are primitive Niggli-reduced cells. Of all changes of cell with whole-number matrices of
determinant 1 and entries within -1 .. 1 (the hand is kept), those that bring the second cell to
the lengths and angles of the first within a tolerance are tried, with every origin that puts an
atom of the rarest element on the first one; each atom must find one of its kind.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.structure import Structure


def displacement(
    first: Structure, second: Structure, *, strain: float = 0.02, degrees: float = 1.6
) -> float:
    """The largest distance (Angstrom, in the first cell) by which an atom is moved in the best
    superposition; infinite where the cells differ by more than strain and degrees or the elements
    do."""
    if first.composition != second.composition:
        return math.inf
    rarest = min(first.composition, key=lambda number: first.composition[number])
    best = math.inf
    for change in _changes(first, second, strain, degrees):
        moved = second.positions @ np.linalg.inv(change)
        anchor = first.positions[first.numbers == rarest][0]
        for origin in moved[second.numbers == rarest]:
            best = min(best, _largest(first, second.numbers, moved - origin + anchor))
    return best


@functools.cache
def _unimodular() -> NDArray[np.int64]:
    """(K, 3, 3) whole matrices of determinant 1 with entries within -1 .. 1."""
    entries = np.array([*itertools.product((-1, 0, 1), repeat=9)]).reshape(-1, 3, 3)
    return entries[np.rint(np.linalg.det(entries)) == 1]


def _changes(
    first: Structure, second: Structure, strain: float, degrees: float
) -> NDArray[np.int64]:
    """Matrices that take the rows of the second cell to about the shape of the first."""
    vectors = _unimodular() @ second.matrix  # (K, 3, 3)
    lengths = np.linalg.norm(vectors, axis=2)
    unit = vectors / lengths[..., None]
    cosines = np.stack([(unit[:, i] * unit[:, j]).sum(1) for i, j in ((1, 2), (0, 2), (0, 1))], 1)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    fits = (np.abs(lengths / first.lengths - 1) <= strain).all(1)
    fits &= (np.abs(angles - first.angles) <= degrees).all(1)
    return _unimodular()[fits]


def _largest(first: Structure, numbers: NDArray[np.int64], moved: NDArray[np.float64]) -> float:
    """The largest distance of an atom to the nearest one of its kind that is not yet taken."""
    offsets = first.positions[:, None] - moved
    offsets -= np.round(offsets)
    distances = np.linalg.norm(offsets @ first.matrix, axis=2)
    distances[first.numbers[:, None] != numbers] = math.inf
    nearest = distances.argmin(1)
    if len({*nearest.tolist()}) < len(nearest):
        return math.inf
    return float(distances.min(1).max())
