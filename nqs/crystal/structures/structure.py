"""A crystal: a cell and the atoms in it; the one form in which everything here passes crystals.

Cell vectors follow from lengths a, b, c and angles alpha, beta, gamma in the standard setting
(a along x, b in the xy plane), so a structure has no orientation; it has a handedness.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nqs.crystal.structures.elements import HEAVIEST, WEIGHTS, formula_order, symbol
from nqs.errors import InputError

Floats = NDArray[np.float64]

MOLE = 0.602214076
"""Avogadro's number times 1 Angstrom^3 in cm^3."""
FLATTEST = 1e-4
"""Least V / (a b c) of a cell: flatter ones hold no crystal and spoil the arithmetic."""
SHORTEST, LONGEST = 0.01, 1e4
"""Bounds of cell lengths in Angstrom: within them volumes and densities are finite."""


class CrystalError(InputError):
    """Text, a file or tokens hold no crystal: one line with the culprit and what is allowed."""


@final
@dataclass(frozen=True, eq=False)
class Structure:
    """A unit cell and its atoms; the arrays are copied and cannot be written to.

    Attributes:
        lengths: (3,) a, b, c in Angstrom, 0.01..10^4.
        angles: (3,) alpha, beta, gamma in degrees, of a cell of positive volume.
        numbers: (A,) int64, atomic numbers.
        positions: (A, 3) fractional coordinates in [0, 1); `Structure.wrapped` takes any.

    Raises CrystalError for anything else (not finite, no atom, flat cell, unknown element).
    """

    lengths: Floats
    angles: Floats
    numbers: NDArray[np.int64]
    positions: Floats

    def __post_init__(self) -> None:
        for name in ("lengths", "angles", "positions"):
            object.__setattr__(self, name, _frozen(getattr(self, name), name))
        object.__setattr__(self, "numbers", _frozen_integers(self.numbers))
        _check_cell(self.lengths, self.angles)
        _check_atoms(self.numbers, self.positions)

    @classmethod
    def wrapped(
        cls, lengths: ArrayLike, angles: ArrayLike, numbers: ArrayLike, positions: ArrayLike
    ) -> Structure:
        """The same from any finite fractional coordinates, each moved into [0, 1)."""
        coordinates = _frozen(positions, "positions")
        return cls(lengths, angles, numbers, wrap(coordinates))  # type: ignore[arg-type]

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def matrix(self) -> Floats:
        """(3, 3) cell vectors a, b, c as rows, in Angstrom: cartesian = positions @ matrix."""
        return cell_matrix(self.lengths, self.angles)

    @property
    def cartesian(self) -> Floats:
        """(A, 3) in Angstrom."""
        return self.positions @ self.matrix

    @property
    def volume(self) -> float:
        """Of the cell, in Angstrom^3."""
        return float(np.prod(self.lengths)) * flatness(self.angles)

    @property
    def density(self) -> float:
        """In g/cm^3."""
        return sum(WEIGHTS[number - 1] for number in self.numbers) / (MOLE * self.volume)

    @property
    def composition(self) -> dict[int, int]:
        """Atomic number -> number of atoms in the cell, the most electropositive element first."""
        return composition_of(self.numbers.tolist())

    @property
    def formula(self) -> str:
        """Of the whole cell, such as Na4Cl4."""
        return formula_of(self.composition)

    @property
    def reduced_formula(self) -> str:
        """Of the smallest whole numbers, such as NaCl; elements (O2, N2) without their molecule."""
        counts = self.composition
        divisor = math.gcd(*counts.values())
        return formula_of({number: count // divisor for number, count in counts.items()})

    def shifted(self, shift: ArrayLike) -> Structure:
        """Every atom moved by shift (3,), in fractions of the cell vectors."""
        moved = self.positions + np.asarray(shift, dtype=np.float64)
        return Structure(self.lengths, self.angles, self.numbers, wrap(moved))

    def exchanged(self, elements: Mapping[int, int], volume: float = 1.0) -> Structure:
        """Each element (atomic number) replaced by the one that `elements` has for it, the cell
        scaled to `volume` times its own."""
        numbers = [elements[number] for number in self.numbers.tolist()]
        lengths = self.lengths * float(np.cbrt(volume))
        return Structure(lengths, self.angles, np.array(numbers), self.positions)

    def ordered(self, order: ArrayLike) -> Structure:
        """The atoms that `order` (indices) names, in its order."""
        chosen = np.asarray(order, dtype=np.int64)
        return Structure(self.lengths, self.angles, self.numbers[chosen], self.positions[chosen])


def wrap(positions: Floats) -> Floats:
    """Fractional coordinates moved into [0, 1)."""
    inside = positions - np.floor(np.nan_to_num(positions))
    inside[inside >= 1.0] = 0.0  # -1e-17 - floor(-1e-17) is 1
    return inside


def cell_matrix(lengths: Floats, angles: Floats) -> Floats:
    """Cell vectors as rows (..., 3, 3) from lengths and angles in degrees, (..., 3) each:

    a = (a, 0, 0),  b = b (cos gamma, sin gamma, 0),
    c = c (cos beta, (cos alpha - cos beta cos gamma) / sin gamma, V / (a b c sin gamma)).
    """
    cosines = _cosines(angles)
    alpha, beta, gamma = np.moveaxis(cosines, -1, 0)
    sine = np.sqrt(1 - gamma**2)
    rows = np.zeros((*cosines.shape, 3))
    rows[..., 0, 0] = 1.0
    rows[..., 1, 0], rows[..., 1, 1] = gamma, sine
    rows[..., 2, 0], rows[..., 2, 1] = beta, (alpha - beta * gamma) / sine
    rows[..., 2, 2] = np.sqrt(_squared_flatness(cosines)) / sine
    return rows * lengths[..., None]


def cell_parameters(matrix: Floats) -> tuple[Floats, Floats]:
    """(lengths, angles in degrees) of cell vectors in the rows of a (3, 3) matrix."""
    lengths = np.linalg.norm(matrix, axis=1)
    unit = matrix / lengths[:, None]
    cosines = np.array([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def flatness(angles: Floats) -> float:
    """V / (a b c) from the three angles in degrees; 0 where they make no cell."""
    return math.sqrt(max(float(_squared_flatness(_cosines(angles))), 0.0))


def composition_of(numbers: Iterable[int]) -> dict[int, int]:
    """Atomic number -> how often, the most electropositive element first."""
    counts = Counter(numbers)
    return {number: counts[number] for number in sorted(counts, key=formula_order)}


def formula_of(composition: dict[int, int]) -> str:
    """Symbols and counts in the given order, a count of one unwritten."""
    return "".join(
        symbol(number) + (str(count) if count > 1 else "") for number, count in composition.items()
    )


def _cosines(angles: Floats) -> Floats:
    """Cosines, with those of 60, 90 and 120 degrees exact."""
    return np.asarray(np.round(np.cos(np.radians(angles)), 15))


def _squared_flatness(cosines: Floats) -> Floats:
    alpha, beta, gamma = np.moveaxis(cosines, -1, 0)
    squared = 1 - alpha**2 - beta**2 - gamma**2 + 2 * alpha * beta * gamma
    return np.asarray(squared)


def _frozen(values: ArrayLike, name: str) -> Floats:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise CrystalError(f"the {name} of a crystal must be numbers") from None
    array.setflags(write=False)
    return array


def _frozen_integers(values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        exact = _frozen(values, "atomic numbers")
        array = np.nan_to_num(exact, nan=0.5, posinf=0.5, neginf=0.5).clip(-1, HEAVIEST + 1)
        if np.any(array != np.rint(array)):
            raise CrystalError(f"atomic numbers {_shown(exact[:8])}: must be whole numbers")
    whole = array.astype(np.int64)
    whole.setflags(write=False)
    return whole


def _check_cell(lengths: Floats, angles: Floats) -> None:
    if lengths.shape != (3,) or not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise CrystalError(f"cell lengths {_shown(lengths)}: three finite lengths > 0 are needed")
    if angles.shape != (3,) or not np.all((angles > 0) & (angles < 180)):
        raise CrystalError(f"cell angles {_shown(angles)}: three between 0 and 180 are needed")
    alpha, beta, gamma = sorted(angles)
    # V^2 is positive beyond these bounds too
    closes = gamma < alpha + beta and alpha + beta + gamma < 360
    if not closes or flatness(angles) < FLATTEST:
        raise CrystalError(f"cell angles {_shown(angles)} make no cell of positive volume")
    if lengths.min() < SHORTEST or lengths.max() > LONGEST:
        raise CrystalError(
            f"cell lengths {_shown(lengths)}: must be within {SHORTEST:g}..{LONGEST:g} Angstrom"
        )


def _check_atoms(numbers: NDArray[np.int64], positions: Floats) -> None:
    if numbers.ndim != 1 or positions.shape != (len(numbers), 3):
        raise CrystalError(
            f"a crystal needs A elements and A x 3 coordinates, not {numbers.shape} and "
            f"{positions.shape}"
        )
    if len(numbers) == 0:
        raise CrystalError("a crystal needs at least one atom")
    if numbers.min() < 1 or numbers.max() > HEAVIEST:
        culprit = numbers[(numbers < 1) | (numbers > HEAVIEST)][0]
        raise CrystalError(f"atomic number {culprit}: must be within 1..{HEAVIEST}")
    outside = ~((positions >= 0) & (positions < 1)).all(axis=1)
    if outside.any():
        atom = int(np.flatnonzero(outside)[0])
        raise CrystalError(
            f"atom {atom} at {_shown(positions[atom])}: fractional coordinates lie in [0, 1)"
        )


def _shown(values: Floats) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values.flat) + ")"
