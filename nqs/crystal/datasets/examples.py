"""Example data: ideal ionic crystals, their cells from the sum of ionic radii.

Radii: R. D. Shannon, Acta Cryst. A32, 751 (1976), effective ionic radii in Angstrom for charge and
coordination (high spin where there is a choice; S, Se, Te, Cl, Br, I always for coordination 6, the
only one tabulated). With d = r(cation) + r(anion), the primitive cells are

    rocksalt     225   a = 2 d,         fcc, anion at 1/2 1/2 1/2
    zincblende   216   a = 4 d / 3^1/2, fcc, anion at 1/4 1/4 1/4
    fluorite     225   a = 4 d / 3^1/2, fcc, anions at +-(1/4 1/4 1/4); antifluorite the reverse
    CsCl         221   a = 2 d / 3^1/2, simple cubic, anion at 1/2 1/2 1/2
    wurtzite     186   a = (8/3)^1/2 d, c = 8 d / 3, u = 3/8
    perovskite   221   a = 2 d(B), A at the corner, B in the centre, X on the faces

Not every one is known, nor the ground state; perovskites have a Goldschmidt factor
(r_A + r_X) / (2^1/2 (r_B + r_X)) within 0.85..1.06. They show that things work, no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from nqs.crystal.datasets.tables import Record
from nqs.crystal.structures.elements import NUMBERS
from nqs.crystal.structures.structure import Structure
from nqs.crystal.structures.symmetry import ordered
from nqs.crystal.tokens.tokeniser import Conditions

_HALIDES = {"F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20}
_CHALCOGENIDES = {"O": 1.40, "S": 1.84, "Se": 1.98, "Te": 2.21}
_NITRIDES = {"N": 1.46}

_SIX = {
    1: {"Li": 0.76, "Na": 1.02, "K": 1.38, "Rb": 1.52, "Cs": 1.67, "Ag": 1.15},
    2: {"Mg": 0.72, "Ca": 1.00, "Sr": 1.18, "Ba": 1.35, "Mn": 0.83, "Fe": 0.78, "Co": 0.745}
    | {"Ni": 0.69, "Zn": 0.74, "Cd": 0.95, "Eu": 1.17, "Yb": 1.02, "Pb": 1.19},
    3: {"Sc": 0.745, "Y": 0.90, "La": 1.032, "Ce": 1.01, "Nd": 0.983, "Gd": 0.938, "Lu": 0.861},
}
_SIX_IN_PEROVSKITES = {
    2: _SIX[2],
    3: {"Al": 0.535, "Ga": 0.62, "Cr": 0.615, "Fe": 0.645, "Sc": 0.745, "In": 0.80},
    4: {"Ti": 0.605, "Zr": 0.72, "Hf": 0.71, "Sn": 0.69, "Ce": 0.87},
    5: {"Nb": 0.64, "Ta": 0.64},
}
_TWELVE = {
    1: {"Na": 1.39, "K": 1.64, "Rb": 1.72, "Cs": 1.88},
    2: {"Ca": 1.34, "Sr": 1.44, "Ba": 1.61, "Pb": 1.49},
    3: {"La": 1.36, "Ce": 1.34, "Nd": 1.27},
}
_EIGHT = {
    1: {"Cs": 1.74, "Rb": 1.61, "Tl": 1.59},
    2: {"Ca": 1.12, "Sr": 1.26, "Ba": 1.42, "Cd": 1.10, "Pb": 1.29, "Eu": 1.25},
    4: {"Zr": 0.84, "Hf": 0.83, "Ce": 0.97, "Th": 1.05, "U": 1.00},
}
_FOUR = {
    1: {"Cu": 0.60, "Ag": 1.00},
    2: {"Be": 0.27, "Mg": 0.57, "Zn": 0.60, "Mn": 0.66, "Cd": 0.78, "Hg": 0.96},
    3: {"B": 0.11, "Al": 0.39, "Ga": 0.47, "In": 0.62},
}
_ALKALI_IN_FOUR = {"Li": 0.59, "Na": 0.99, "K": 1.37}
_TO_FOUR = {"F": 1.31, "O": 1.38}
_TO_EIGHT = {"O": 1.42, "S": 1.84, "Se": 1.98, "Te": 2.21}

_FCC, _CUBE, _HEXAGON = (60.0, 60.0, 60.0), (90.0, 90.0, 90.0), (90.0, 90.0, 120.0)
_ORIGIN, _QUARTER, _HALF, _THREE_QUARTERS = (0, 0, 0), (0.25,) * 3, (0.5,) * 3, (0.75,) * 3
_GOLDSCHMIDT = (0.85, 1.06)


def examples() -> list[Record]:
    """361 crystals of seven types, always the same, by type and then by element."""
    makers = (_rocksalt, _tetrahedral, _fluorite, _antifluorite, _caesium_chloride, _perovskite)
    return [record for maker in makers for record in maker()]


def _rocksalt() -> Iterator[Record]:
    for cations, anions in ((1, _HALIDES), (2, _CHALCOGENIDES), (3, _NITRIDES)):
        for (cation, r), (anion, s) in _pairs(_SIX[cations], anions):
            length = math.sqrt(2) * (r + s)
            yield _record("rocksalt", 225, [length] * 3, _FCC, (cation, anion), (_ORIGIN, _HALF))


def _tetrahedral() -> Iterator[Record]:
    """Zincblende and wurtzite."""
    heavy = {anion: _HALIDES[anion] for anion in ("Cl", "Br", "I")}
    third = 1 / 3, 2 / 3
    sites = ((*third, 0), (third[1], third[0], 0.5), (*third, 3 / 8), (third[1], third[0], 7 / 8))
    for cations, anions in ((1, heavy), (2, _CHALCOGENIDES | _TO_FOUR), (3, _NITRIDES)):
        anions = {name: radius for name, radius in anions.items() if name != "F"}
        for (cation, r), (anion, s) in _pairs(_FOUR[cations], anions):
            cubic, d = math.sqrt(8 / 3) * (r + s), r + s
            pair = (cation, anion)
            yield _record("zincblende", 216, [cubic] * 3, _FCC, pair, (_ORIGIN, _QUARTER))
            lengths = [cubic, cubic, 8 * d / 3]
            yield _record("wurtzite", 186, lengths, _HEXAGON, (cation,) * 2 + (anion,) * 2, sites)


def _fluorite() -> Iterator[Record]:
    sites = (_ORIGIN, _QUARTER, _THREE_QUARTERS)
    for cations, anion in ((2, "F"), (4, "O")):
        for cation, r in _EIGHT[cations].items():
            length = math.sqrt(8 / 3) * (r + _TO_FOUR[anion])
            yield _record("fluorite", 225, [length] * 3, _FCC, (cation, anion, anion), sites)


def _antifluorite() -> Iterator[Record]:
    sites = (_QUARTER, _THREE_QUARTERS, _ORIGIN)
    for (cation, r), (anion, s) in _pairs(_ALKALI_IN_FOUR, _TO_EIGHT):
        length = math.sqrt(8 / 3) * (r + s)
        yield _record("antifluorite", 225, [length] * 3, _FCC, (cation, cation, anion), sites)


def _caesium_chloride() -> Iterator[Record]:
    heavy = {anion: _HALIDES[anion] for anion in ("Cl", "Br", "I")}
    for (cation, r), (anion, s) in _pairs(_EIGHT[1], heavy):
        length = 2 * (r + s) / math.sqrt(3)
        yield _record("CsCl", 221, [length] * 3, _CUBE, (cation, anion), (_ORIGIN, _HALF))


def _perovskite() -> Iterator[Record]:
    faces = ((0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5))
    oxygen = {"O": _CHALCOGENIDES["O"]}
    for first, second, anions in ((1, 2, _HALIDES), (1, 5, oxygen), (2, 4, oxygen), (3, 3, oxygen)):
        for (a, r_a), (b, r_b) in _pairs(_TWELVE[first], _SIX_IN_PEROVSKITES[second]):
            for anion, s in anions.items():
                factor = (r_a + s) / (math.sqrt(2) * (r_b + s))
                if a != b and _GOLDSCHMIDT[0] <= factor <= _GOLDSCHMIDT[1]:
                    length, atoms = 2 * (r_b + s), (a, b, anion, anion, anion)
                    sites = (_ORIGIN, _HALF, *faces)
                    yield _record("perovskite", 221, [length] * 3, _CUBE, atoms, sites)


def _pairs(
    first: dict[str, float], second: dict[str, float]
) -> Iterator[tuple[tuple[str, float], tuple[str, float]]]:
    return itertools.product(first.items(), second.items())


def _record(
    kind: str,
    group: int,
    lengths: Sequence[float],
    angles: Sequence[float],
    atoms: Sequence[str],
    sites: Sequence[Sequence[float]],
) -> Record:
    numbers = [NUMBERS[atom] for atom in atoms]
    structure = ordered(Structure.wrapped(lengths, angles, numbers, sites))
    name = f"{structure.reduced_formula}-{kind}"
    return Record(name, structure, Conditions(structure.composition, group))
