"""Whether a generated crystal is physically conceivable: its structure and its composition.

Structure (Court et al. 2020; Xie et al., CDVAE, arXiv:2110.06197): no two atoms closer than 0.5
Angstrom and a cell of at least 0.1 Angstrom^3. An atom's own images count: a one-atom cell with
a = 0.45 Angstrom is invalid. CDVAE leaves them out; `self_images=False` does as well.

Composition (SMACT, Davies et al., Chem 1, 617 (2016), as CDVAE uses it): one oxidation state for
each element makes the formula neutral, with every cation less electronegative (Pauling) than every
anion. Single elements and alloys of metals pass. The outcome depends on the table of oxidation
states, which is named with every result: papers use `smact14`. An element whose electronegativity
is unknown (Pm, noble gases) is not held against a formula, as CDVAE has it; SMACT's own screening
refuses it, and with it 0.2 % of MP-20. All else is the same except speed: SMACT tries the product
of all states, 10^9 and more for ten elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.periodic_distances import shortest_distance
from nqs.crystal.structures.structure import Structure
from nqs.errors import InputError, require_choice

CLOSEST = 0.5
"""Angstrom, least distance between two atoms."""
SMALLEST = 0.1
"""Angstrom^3, least volume of a cell."""

NO_CRYSTAL = "no crystal"
"""The reason of a sample that is none."""

OXIDATION_TABLES = {
    "smact14": "oxidation_states_smact14",
    "icsd16": "oxidation_states_icsd16",
    "icsd24": "oxidation_states_icsd24",
    "pymatgen": "oxidation_states_sp",
}
"""Table -> attribute of smact.Element: compiled by hand in 2014 (what papers use), occurring in the
ICSD of 2016 and of 2024, and pymatgen's structure predictor."""


@dataclass(frozen=True)
class Validity:
    """Verdicts over S samples.

    Attributes:
        structural: (S,) bool.
        compositional: (S,) bool.
        reasons: (S,) what is wrong with those that are not valid, "" for the others.
        oxidation_states: table that the compositional verdicts rest on.
        self_images: whether an atom's own images counted.
    """

    structural: NDArray[np.bool_]
    compositional: NDArray[np.bool_]
    reasons: tuple[str, ...]
    oxidation_states: str
    self_images: bool

    @property
    def both(self) -> NDArray[np.bool_]:
        return self.structural & self.compositional


def validity(
    samples: Sequence[Structure | None],
    *,
    oxidation_states: str = "smact14",
    self_images: bool = True,
) -> Validity:
    """Verdicts on samples; None stands for one that was no crystal at all and is invalid twice.

    Raises InputError for an unknown table, or without SMACT.
    """
    structural, compositional = [], []
    for sample in samples:
        structural.append(
            NO_CRYSTAL if sample is None else structural_fault(sample, self_images=self_images)
        )
        compositional.append(
            NO_CRYSTAL
            if sample is None
            else compositional_fault(sample.composition, oxidation_states)
        )
    return Validity(
        np.array([not fault for fault in structural], dtype=np.bool_),
        np.array([not fault for fault in compositional], dtype=np.bool_),
        tuple(
            "; ".join(dict.fromkeys(filter(None, faults)))
            for faults in zip(structural, compositional, strict=True)
        ),
        oxidation_states,
        self_images,
    )


def structural_fault(structure: Structure, *, self_images: bool = True) -> str:
    """What a structure lacks of distances of at least CLOSEST and a volume of at least SMALLEST;
    "" if it has both."""
    if structure.volume < SMALLEST:
        return f"a cell of {structure.volume:.3g} Angstrom^3, at least {SMALLEST}"
    shortest = shortest_distance(structure.matrix, structure.positions, self_images=self_images)
    if shortest >= CLOSEST:
        return ""
    return f"atoms {shortest:.3f} Angstrom apart, at least {CLOSEST}"


def structurally_valid(structure: Structure, *, self_images: bool = True) -> bool:
    """Distances of at least CLOSEST and a volume of at least SMALLEST."""
    return not structural_fault(structure, self_images=self_images)


def compositional_fault(composition: Mapping[int, int], oxidation_states: str = "smact14") -> str:
    """What a composition lacks; "" if it is valid."""
    if compositionally_valid(composition, oxidation_states):
        return ""
    return f"no neutral oxidation states in {oxidation_states}"


def compositionally_valid(
    composition: Mapping[int, int], oxidation_states: str = "smact14"
) -> bool:
    """SMACT's verdict on atomic number -> number of atoms, remembered by reduced formula."""
    require_choice("oxidation_states", oxidation_states, OXIDATION_TABLES)
    divisor = math.gcd(*composition.values())
    reduced = tuple(sorted((number, n // divisor) for number, n in composition.items()))
    return _neutral_and_ordered(reduced, oxidation_states)


@lru_cache(maxsize=200_000)
def _neutral_and_ordered(composition: tuple[tuple[int, int], ...], table: str) -> bool:
    """The test of the module's docstring, in polynomial time.

    Cations are less electronegative than anions if and only if a threshold t has only states >= 0
    below it and only states <= 0 from it on; so for each t (the electronegativities present) the
    reachable total charges are a sum of sets, kept as the bits of an integer.
    """
    elements = [_smact_element(number, table) for number, _ in composition]
    if len(elements) == 1 or all(element.is_metal for element in elements):
        return True
    counts = [count for _, count in composition]
    thresholds = {element.electronegativity or 0.0 for element in elements}
    return any(
        _reaches_neutrality(
            [(n, element.charges(t)) for element, n in zip(elements, counts, strict=True)]
        )
        for t in thresholds
    )


def _reaches_neutrality(states: Sequence[tuple[int, Sequence[int]]]) -> bool:
    """Whether one charge each, times its count, can sum to zero."""
    reachable, lowest = 1, 0  # bit k: charge lowest + k can be reached
    for count, charges in states:
        if not charges:
            return False
        least = min(charges)
        union = 0
        for charge in charges:
            union |= reachable << (count * (charge - least))
        reachable, lowest = union, lowest + count * least
    return lowest <= 0 and bool(reachable >> -lowest & 1)


@dataclass(frozen=True)
class _Element:
    states: tuple[int, ...]
    electronegativity: float | None
    is_metal: bool

    def charges(self, threshold: float) -> list[int]:
        """States it may have if cations lie below the threshold and anions do not."""
        if self.electronegativity is None:
            return list(self.states)
        anion = self.electronegativity >= threshold
        return [q for q in self.states if (q <= 0 if anion else q >= 0)]


@cache
def _smact_element(number: int, table: str) -> _Element:
    """What SMACT knows of an element; nothing of those that it does not list (Z > 103)."""
    try:
        import smact
    except ImportError:
        raise InputError("compositional validity needs SMACT: pip install 'nqs[crystal]'") from None
    from nqs.crystal.structures.elements import symbol

    try:
        element = smact.Element(symbol(number))
    except KeyError:
        return _Element((), None, is_metal=False)
    states = getattr(element, OXIDATION_TABLES[table]) or ()
    return _Element(
        tuple(sorted(set(states))), element.pauling_eneg, element.symbol in smact.metals
    )
