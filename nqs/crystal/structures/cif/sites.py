"""The atoms that a file lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.cif import atom_names
from nqs.crystal.structures.cif.atom_names import Formula, Named
from nqs.crystal.structures.cif.blocks import ATOMS, Block, number
from nqs.crystal.structures.structure import CrystalError, Floats
from nqs.errors import shown

MOST_ATOMS = 2_000
"""Atoms in a cell."""
FARTHEST = 1_000.0
"""Largest fractional coordinate that is folded back into the cell."""

_COORDINATES = (ATOMS, "_atom_site_fract_y", "_atom_site_fract_z")
_TYPE, _LABEL = "_atom_site_type_symbol", "_atom_site_label"
_OCCUPANCY = "_atom_site_occupancy"
_DISORDER = ("_atom_site_disorder_group", "_atom_site_disorder_assembly")
_HYDROGENS, _FLAG = "_atom_site_attached_hydrogens", "_atom_site_calc_flag"
_MULTIPLICITIES = (
    "_atom_site_site_symmetry_multiplicity",
    "_atom_site_symmetry_multiplicity",
)
_UNKNOWN_OCCUPANCY = "occupancy ? taken as 1"


@dataclass(frozen=True)
class Sites:
    """The S atoms that a file lists.

    Attributes:
        numbers: (S,) atomic numbers.
        positions: (S, 3) fractional.
        multiplicities: of the sites, as stated; None: not (all) stated.
        notes: what was decided.
    """

    numbers: NDArray[np.int64]
    positions: Floats
    multiplicities: tuple[float, ...] | None
    notes: tuple[str, ...]


def read_sites(block: Block, formulas: list[Formula]) -> Sites:
    """The atoms of a block; `formulas`: what its formula may mean, which labels are read with.

    Raises CrystalError for partial occupancies, disorder, atoms that are only implied, unknown
    elements and coordinates that are none.
    """
    n_sites = len(block.raw(ATOMS) or ())
    if not 1 <= n_sites <= MOST_ATOMS:
        raise CrystalError(f"{n_sites} atoms are listed: 1 to {MOST_ATOMS} are read")
    columns = [_column(block, tag, n_sites) for tag in _COORDINATES]
    missing = [tag for tag, column in zip(_COORDINATES, columns, strict=True) if column is None]
    if missing:
        raise CrystalError(f"0 complete rows of fractional coordinates: {missing[0]} is missing")
    rows = zip(*(column for column in columns if column is not None), strict=True)
    positions = [[_coordinate(text, index) for text in row] for index, row in enumerate(rows)]
    notes = [*_check_whole(block, n_sites)]
    named = _named(block, formulas, n_sites)
    notes += [name.decision for name in named if name.decision]
    return Sites(
        np.array([name.number for name in named]),
        np.array(positions),
        _multiplicities(block, n_sites),
        tuple(dict.fromkeys(notes)),
    )


def _column(block: Block, tag: str, n_sites: int) -> list[str] | None:
    """The texts of a column of the atoms, one each; None where there is no such column."""
    values = block.raw(tag)
    if values is not None and len(values) != n_sites:
        raise CrystalError(f"{block.spelled(tag)}: {len(values)} values for {n_sites} atoms")
    return values


def _coordinate(text: str, index: int) -> float:
    value = number(text)
    if not abs(value) <= FARTHEST:
        raise CrystalError(
            f"atom {index} has coordinate {shown(text)}: a number within +-{FARTHEST:g} is needed"
        )
    return value


def _check_whole(block: Block, n_sites: int) -> list[str]:
    """Raises CrystalError unless every atom is there for certain; what was decided for that."""
    notes = []
    for index, text in enumerate(_column(block, _OCCUPANCY, n_sites) or ()):
        if text == "?":
            notes.append(_UNKNOWN_OCCUPANCY)
        elif text != "." and not abs(number(text) - 1) < 1e-3:  # '.': the default, 1
            raise CrystalError(f"atom {index} has occupancy {shown(text)}: only 1 is a crystal")
    for tag in _DISORDER:
        for index, text in enumerate(_column(block, tag, n_sites) or ()):
            if text not in ("?", ".", "0", "'0'"):
                raise CrystalError(
                    f"atom {index} is disordered ({block.spelled(tag)} {shown(text)}): only "
                    f"ordered crystals are read"
                )
    for index, text in enumerate(_column(block, _HYDROGENS, n_sites) or ()):
        if text not in ("?", ".") and number(text) != 0:
            raise CrystalError(
                f"atom {index} has {shown(text)} attached hydrogens that are not listed: every "
                f"atom is needed"
            )
    for index, text in enumerate(_column(block, _FLAG, n_sites) or ()):
        if text.lower() in ("dum", "'dum'"):
            raise CrystalError(f"atom {index} is a dummy ({block.spelled(_FLAG)} dum)")
    return notes


def _named(block: Block, formulas: list[Formula], n_sites: int) -> list[Named]:
    """The elements of the atoms, from type symbols and, where one is not known, the label."""
    types = _texts(block, _TYPE, n_sites)
    labels = _texts(block, _LABEL, n_sites)
    found = [atom_names.of_type(text) if text else None for text in types]
    for index, (text, name) in enumerate(zip(types, found, strict=True)):
        if text and name is None:
            raise CrystalError(f"atom {index} is {shown(text)}: not an element")
    untyped = [index for index, text in enumerate(types) if not text]
    wanted = {element for formula in formulas for element in formula} or _atom_types(block)
    by_label = atom_names.of_labels([labels[index] for index in untyped], wanted)
    names = dict(zip(untyped, by_label, strict=True))
    return [name or names[index] for index, name in enumerate(found)]


def _texts(block: Block, tag: str, n_sites: int) -> list[str]:
    """The known texts of a column, '' for the others."""
    values = _column(block, tag, n_sites)
    if values is None:
        return [""] * n_sites
    return ["" if value in ("?", ".") else value.strip("'\"").strip() for value in values]


def _atom_types(block: Block) -> set[int]:
    """The elements that the file's list of atom types names."""
    names = [atom_names.of_type(text) for text in block.texts("_atom_type_symbol")]
    return {name.number for name in names if name is not None}


def _multiplicities(block: Block, n_sites: int) -> tuple[float, ...] | None:
    for tag in _MULTIPLICITIES:
        column = _column(block, tag, n_sites)
        if column is not None:
            if any(text in ("?", ".") for text in column):
                return None
            values = tuple(map(number, column))
            for index, value in enumerate(values):
                if not 1 <= value <= MOST_ATOMS:
                    raise CrystalError(
                        f"atom {index} has multiplicity {shown(column[index])}: a whole number is "
                        f"needed"
                    )
            return values
    return None
