"""Characters +1 and -1 of a symmetry group by the names of the lattice's symmetries.

A real character is known by its signs on a few elements: {"shift_x": -1} is the momentum pi along
x, {"spin_flip": -1} the states that change sign when all spins are turned, {"rotation90": -1,
"mirror0": 1} the representation B1 of the square.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hamiltonians.lattices.isometries import named_symmetries
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import Element, SymmetryGroup


def named_elements(group: SymmetryGroup, lattice: Lattice) -> dict[str, Element]:
    """Elements of the group that have names, in the order of `with_character`."""
    elements: dict[str, Element] = {"spin_flip": (torch.arange(lattice.n_sites), True)}
    elements |= {name: (row, False) for name, row in named_symmetries(lattice).items()}
    return {name: element for name, element in elements.items() if element in group}


def with_character(
    group: SymmetryGroup, lattice: Lattice, signs: Mapping[str, int]
) -> SymmetryGroup:
    """The group with the character that has these signs, +1 or -1 by the names of elements.

    Names are "spin_flip" and those of `named_symmetries`. Symmetries that are not named get +1
    where that is possible, first the spin flip, then shifts, rotations and mirrors.
    Raises ValueError for names that the group does not have, other numbers than 1 and -1, and signs
    that no character has.
    """
    elements = named_elements(group, lattice)
    for name, sign in signs.items():
        if name not in elements:
            allowed = ", ".join(elements) or "none"
            raise ValueError(f"character: {name} is no symmetry here; allowed: {allowed}")
        if isinstance(sign, bool) or sign not in (1, -1):
            raise ValueError(f"character: {name} has {sign!r}; it must be 1 or -1")
    required = [(elements[name], sign) for name, sign in signs.items()]
    result = group.with_signs(required, list(elements.values()))
    if result is None:
        shown = ", ".join(f"{name}: {sign}" for name, sign in signs.items())
        raise ValueError(f"character: no state has the signs {shown} at once")
    return result
