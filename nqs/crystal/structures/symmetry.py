"""Space groups, and the one cell and order of atoms by which a crystal is written: spglib's.

The canonical form is a choice of preparation, made before and apart from any tokeniser:

- the primitive cell: fewer atoms, and conventional and primitive cells of a crystal look alike;
- its Niggli-reduced vectors (Krivy & Gruber, Acta Cryst. A32, 297 (1976)): angles are either all
  within 60..90 or all within 90..120 degrees, and no two cells of a crystal differ much;
- atoms by element, the most electropositive first, then by x, y, z.

The origin stays where it is, and so does the handedness.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from nqs.crystal.structures.elements import ELECTRONEGATIVITIES
from nqs.crystal.structures.structure import CrystalError, Floats, Structure, cell_parameters

os.environ.setdefault("SPGLIB_WARNING", "OFF")  # its C code writes to stderr what it returns too

TOLERANCE = 0.01
"""Angstrom by which symmetry may be off: the digits that data sets round to, not relaxations."""
ORDERED = 1_000
"""Coordinates that agree to 1/1000 of the cell are ordered by the next one."""


def space_group(structure: Structure, tolerance: float = TOLERANCE) -> int:
    """1..230. Raises CrystalError if spglib finds none (atoms on one another)."""
    dataset = symmetry_of(structure, tolerance)
    if dataset is None:
        raise CrystalError(f"{structure.formula}: spglib finds no space group")
    return int(dataset.number)


def symmetry_of(structure: Structure, tolerance: float = TOLERANCE) -> spglib.SpglibDataset | None:
    """All that spglib finds; None if it finds no space group (atoms on one another)."""
    return call_spglib(spglib.get_symmetry_dataset, _cell(structure), symprec=tolerance)


def orbits(structure: Structure, tolerance: float = TOLERANCE) -> tuple[list[int], list[int]]:
    """One atom of each set that the space group maps onto itself, and the sets' sizes; every atom
    by itself where spglib finds no group."""
    dataset = symmetry_of(structure, tolerance)
    if dataset is None:
        return list(range(structure.n_atoms)), [1] * structure.n_atoms
    atoms, sizes = np.unique(dataset.equivalent_atoms, return_counts=True)
    return atoms.tolist(), sizes.tolist()


def canonical(
    structure: Structure, *, primitive: bool = True, tolerance: float = TOLERANCE
) -> Structure:
    """The same crystal in its Niggli-reduced (primitive) cell with its atoms in order.

    Raises CrystalError if spglib cannot reduce it.
    """
    matrix, positions, numbers = _cell(structure)
    if primitive:
        smaller = call_spglib(
            spglib.standardize_cell,
            (matrix, positions, numbers),
            to_primitive=True,
            no_idealize=True,
            symprec=tolerance,
        )
        if smaller is None:
            raise CrystalError(f"{structure.formula}: spglib finds no primitive cell")
        matrix, positions, numbers = smaller
    reduced = call_spglib(spglib.niggli_reduce, matrix)
    if reduced is None or not abs(np.linalg.det(reduced)) > 0:
        raise CrystalError(f"{structure.formula}: spglib finds no Niggli cell")
    if np.linalg.det(reduced) < 0:  # lengths and angles would describe the mirror image
        reduced = -reduced
    moved = positions @ matrix @ np.linalg.inv(reduced)
    return ordered(Structure.wrapped(*cell_parameters(reduced), numbers, moved))


def ordered(structure: Structure) -> Structure:
    """Atoms by element, the most electropositive first, then by x, y, z."""
    places = np.rint(structure.positions * ORDERED).astype(np.int64) % ORDERED
    pull = np.array(ELECTRONEGATIVITIES)[structure.numbers - 1]
    keys = (places[:, 2], places[:, 1], places[:, 0], structure.numbers, pull)  # last one first
    return structure.ordered(np.lexsort(keys))


def _cell(structure: Structure) -> tuple[Floats, Floats, NDArray[np.int64]]:
    return structure.matrix, structure.positions, structure.numbers


def call_spglib(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result, or None where spglib fails: by None, by an error or by a deprecation notice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return function(*arguments, **options)
        except spglib.SpglibError:
            return None
