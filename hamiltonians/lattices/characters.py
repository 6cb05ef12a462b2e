"""Characters +1 and -1 of a symmetry group, from the names of symmetries that a state is odd under.

A real character is known by its signs on a few elements: odd under shift_x is the momentum pi along
x, odd under spin_flip are states that change sign when all spins are turned, odd under rotation90
alone is the representation B1 of the square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hamiltonians.lattices.isometries import named_symmetries
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import Element, SymmetryGroup


def named_elements(group: SymmetryGroup, lattice: Lattice) -> dict[str, Element]:
    """Elements of the group that have names: "spin_flip" and those of `named_symmetries`."""
    elements: dict[str, Element] = {"spin_flip": (torch.arange(lattice.n_sites), True)}
    elements |= {name: (row, False) for name, row in named_symmetries(lattice).items()}
    return {name: element for name, element in elements.items() if element in group}


def odd_under(group: SymmetryGroup, lattice: Lattice, names: Sequence[str]) -> SymmetryGroup:
    """The group with the character that is -1 for the named symmetries.

    The others of `named_elements` get +1 where that is possible, one after another: first the spin
    flip, then shifts, rotations and mirrors.
    Raises ValueError for names that are no element of the group, and where no character is -1 for
    all of them.
    """
    elements = named_elements(group, lattice)
    for name in names:
        if name not in elements:
            allowed = ", ".join(elements) or "none"
            raise ValueError(f"{name} is not among the symmetries that have names here: {allowed}")
    result = group.with_signs([(elements[name], -1) for name in names], list(elements.values()))
    if result is None:
        raise ValueError(f"no state is odd under {', '.join(names)} at once")
    return result
