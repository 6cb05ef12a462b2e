"""What a file states of its cell beside the atoms (formula, Z, volume, density), and whether a
structure meets it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from nqs.crystal.structures.cif import atom_names
from nqs.crystal.structures.cif.atom_names import DEUTERIUM, Formula
from nqs.crystal.structures.cif.blocks import Block, number
from nqs.crystal.structures.elements import symbol
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.errors import shown

DENSITY_TOLERANCE: Final = 0.05
VOLUME_TOLERANCE: Final = 0.02
"""Relative; a volume is computed, a density may be rounded or of a slightly other sample."""
DENSEST: Final = 500.0
"""g/cm^3: lengths in nanometres make any crystal denser than that."""

_FORMULA, _VOLUME = "_chemical_formula_sum", "_cell_volume"
_UNITS = ("_cell_formula_units_z", "_cell_z")
_DENSITY = "_exptl_crystal_density_diffrn"
_OTHER_CELL = {Fraction(2), Fraction(3), Fraction(4)} | {Fraction(1, n) for n in (2, 3, 4)}


@dataclass(frozen=True)
class StatedContent:
    """What a file states of its cell.

    Attributes:
        formulas: what the formula may mean, of the cell or of a unit; empty: not stated.
        units: Z, formula units in the cell; None: not stated.
        volume: Angstrom^3, density: g/cm^3; None: not stated.
    """

    formulas: list[Formula]
    units: int | None
    volume: float | None
    density: float | None

    @property
    def complete(self) -> bool:
        """Whether the content of the cell is said: formula and Z."""
        return bool(self.formulas) and self.units is not None

    def objection(self, structure: Structure, notes: tuple[str, ...] = ()) -> str:
        """Why the structure is not what is stated; '' if it is."""
        wrong = [self._other_formula(structure, formula) for formula in self.formulas]
        if wrong and all(wrong):
            return wrong[0]
        if not wrong and self.units and math.gcd(*structure.composition.values()) % self.units:
            return f"{structure.formula} in the cell is not Z = {self.units} formula units"
        return self._other_density(structure, notes)

    def _other_formula(self, structure: Structure, formula: Formula) -> str:
        counts, stated = structure.composition, _written(formula)
        if counts.keys() != formula.keys():
            return f"{structure.formula} in the cell does not come to the stated formula {stated}"
        ratios = [counts[element] / formula[element] for element in counts]
        if max(ratios) - min(ratios) > 1e-6 * max(ratios):
            return f"{structure.formula} in the cell does not come to the stated formula {stated}"
        held, whole = ratios[0], all(count == int(count) for count in formula.values())
        if self.units is None:
            fits = not whole or abs(held - round(held)) < 1e-6
            return "" if fits else f"{structure.formula} is no multiple of the formula {stated}"
        common = math.gcd(*map(int, formula.values())) if whole else 0
        of_the_cell = abs(held - 1) < 1e-6 and common > 0 and common % self.units == 0
        if of_the_cell or abs(held - self.units) < 1e-6:
            return ""
        shares = {Fraction(held / self.units).limit_denominator(100)}
        if common > 0 and common % self.units == 0:  # a formula of the whole cell
            shares.add(Fraction(held).limit_denominator(100))
        culprit = "; Z is of the other cell, primitive or conventional"
        return (
            f"{structure.formula} in the cell is {held:g} x the stated formula {stated}, "
            f"Z = {self.units} is stated{culprit if shares & _OTHER_CELL else ''}"
        )

    def _other_density(self, structure: Structure, notes: tuple[str, ...]) -> str:
        found, stated = structure.density, self.density
        if found > DENSEST:
            return f"a density of {found:.3g} g/cm^3: cell lengths must be in Angstrom"
        if stated is None or DEUTERIUM in notes:
            return ""
        if abs(found - stated) > DENSITY_TOLERANCE * stated:
            return (
                f"{structure.formula} in the cell has a density of {found:.4g} g/cm^3, "
                f"{_DENSITY} is {stated:.4g}"
            )
        return ""

    def check_volume(self, structure: Structure) -> None:
        """Raises CrystalError unless the cell has the stated volume."""
        found, stated = structure.volume, self.volume
        if stated is not None and abs(found - stated) > VOLUME_TOLERANCE * stated:
            raise CrystalError(
                f"{_VOLUME} {stated:.6g} and lengths and angles (volume {found:.6g}) contradict "
                f"each other"
            )


def stated_content(block: Block) -> StatedContent:
    """What a block states. Raises CrystalError for what is stated and no number or formula."""
    text = block.one(_FORMULA)
    formulas = [] if text is None else atom_names.formulas(text)
    return StatedContent(
        formulas, _whole(block), _positive(block, _VOLUME), _positive(block, _DENSITY)
    )


def _whole(block: Block) -> int | None:
    text = block.one(*_UNITS)
    if text is None:
        return None
    value = number(text)
    if not (1 <= value <= 1e6 and value == int(value)):
        raise CrystalError(f"_cell_formula_units_Z {shown(text)}: must be a whole number >= 1")
    return int(value)


def _positive(block: Block, tag: str) -> float | None:
    text = block.one(tag)
    if text is None:
        return None
    value = number(text)
    if not 0 < value < math.inf:
        raise CrystalError(f"{tag} {shown(text)}: must be a number > 0")
    return value


def _written(formula: Formula) -> str:
    text = "".join(
        symbol(element) + ("" if count == 1 else f"{count:g}") for element, count in formula.items()
    )
    return shown(text)
