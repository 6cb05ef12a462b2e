"""The symmetries that a Hamiltonian and its lattice share, as a group of at most so many elements.

Candidates are the isometries of the lattice and the inversion of all bits; what leaves U H U as it
is, couplings included, is a symmetry. A large group is not needed whole: of ordered phases it is
enough to connect the patterns. So a group is built from one element after another as long as it is
not too large, and those come first that tell patterns apart: the spin flip; then what leaves no
site in its place, above all where some site goes to a nearest neighbour (a checkerboard or a
striped pattern on an even lattice is carried into its counterpart by a mirror between sites, but
not by a diagonal one, nor by a half turn).

Letters: N sites, E elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.invariance import symmetry_test
from hamiltonians.lattices.isometries import translation, translation_steps
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import Element, SymmetryGroup

MAX_TRIED: Final = 4_096
"""Largest space group whose every element is tried."""


def symmetries(
    hamiltonian: Hamiltonian,
    lattice: Lattice | None = None,
    *,
    limit: int,
    spin_flip: bool = True,
) -> SymmetryGroup:
    """Symmetries of U H U (`Hamiltonian.rotated`), all of them if they are no more than `limit`,
    else a subgroup that is no larger; the identity alone where there is no other.

    lattice: where the sites are, by default the Hamiltonian's own; without one only the spin flip
    is tried. spin_flip: whether the inversion of all bits may be among them.
    """
    lattice = hamiltonian.lattice if lattice is None else lattice
    has = symmetry_test(hamiltonian)
    group = SymmetryGroup.identity(hamiltonian.n_sites)
    chosen: list[Element] = []
    for element in _in_order(lattice, hamiltonian.n_sites, spin_flip):
        if element in group or not has(*element):
            continue
        larger = _generated(group, [*chosen, element], limit)
        if larger is not None:
            group, chosen = larger, [*chosen, element]
        if 2 * len(group) > limit:  # another element at least doubles it
            break
    return group


def candidates(lattice: Lattice) -> Iterator[Tensor]:
    """Symmetries (N,) of the lattice: a generating set first, then the others if few."""
    point = lattice.point_group().permutations
    n_x, n_y = translation_steps(lattice)
    shifts = [(1, 0), (0, 1), (1, 1), (1, -1)]
    shifts += [(d, 0) for d in _divisors(n_x)] + [(0, d) for d in _divisors(n_y)]
    for x, y in shifts:
        yield translation(lattice, x % n_x, y % n_y)
    yield from point
    if n_x * n_y * len(point) > MAX_TRIED:
        return
    for x in range(n_x):
        for y in range(n_y):
            yield from translation(lattice, x, y)[point]


def _divisors(length: int) -> list[int]:
    return [d for d in range(2, length) if length % d == 0]


def _in_order(lattice: Lattice | None, n_sites: int, spin_flip: bool) -> Iterator[Element]:
    """The spin flip, then permutations by the sites that they leave where they are and the shortest
    way that one goes, each once."""
    sites = torch.arange(n_sites)
    if spin_flip:
        yield sites, True
    if lattice is None:
        return
    rows = torch.stack(list(candidates(lattice))).unique(dim=0)  # (E, N)
    ways = lattice.distances()[sites, rows].masked_fill(rows == sites, torch.inf)  # (E, N)
    shortest = (ways.amin(1) * 1e6).round().tolist()  # of one shell, up to rounding
    fixed = (rows == sites).sum(1).tolist()
    for e in sorted(range(len(rows)), key=lambda e: (fixed[e], shortest[e])):
        if fixed[e] < n_sites:
            yield rows[e], False


def _generated(
    group: SymmetryGroup, elements: Sequence[Element], limit: int
) -> SymmetryGroup | None:
    """The group of all products, None for more than `limit`. group: of all but the last of them."""
    if 2 * len(group) > limit:
        return None
    try:
        return SymmetryGroup.generated_by(elements, limit)
    except ValueError:
        return None
