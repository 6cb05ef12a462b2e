"""What model.symmetry=auto stands for: the symmetries that a state is given without being asked.

An ordered or nearly degenerate phase has several patterns of nearly one energy, and a network
settles in one of them: its energy is right, its overlap with the ground state is one over the
number of patterns. Averaged over the symmetries of the Hamiltonian it is the right combination.

Where psi may be positive nothing is lost: a stoquastic H has a ground state psi >= 0 that every
symmetry leaves as it is (Perron and Frobenius; where that state is not the only one, the mean of
its images), and for positive psi with mean probability p over the images

    <H>(p) = sum_s H_ss p(s) - sum |H_ss'| sqrt(p(s) p(s'))

is convex in p, so an average never has a higher energy than its images. Where H has other signs the
ground state may change its own under a symmetry: there it is for the user to say (model.odd).

A step of M images costs less than M times more, as rows that symmetries connect are one: little
where the basis is small against M times the draws, nearly M times where it is far larger. So the
group is the smaller the larger the basis, down to one symmetry that joins two patterns, and in
large systems, where the gain in accuracy is paid for in full (docs/decisions.md), none; there the
evaluation says how symmetric the state has become (nqs.vmc.observables.broken_symmetry).
"""

from __future__ import annotations

import math
from typing import Final

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.symmetries import symmetries

IMAGES: Final = ((2**14, 16), (2**17, 8), (2**20, 2))
"""Configurations of the basis and the most elements of the group up to there; beyond, none."""


def automatic_group(
    hamiltonian: Hamiltonian, lattice: Lattice, n_up: int | None = None
) -> SymmetryGroup | None:
    """The symmetries of H that psi is averaged over, None for none.

    n_up: number of 1 bits, if it is fixed; the spin flip keeps it only at half of the sites.
    """
    n_sites = hamiltonian.n_sites
    limit = most_images(2**n_sites if n_up is None else math.comb(n_sites, n_up))
    if limit == 1 or not hamiltonian.is_stoquastic:
        return None
    spin_flip = n_up is None or 2 * n_up == n_sites
    group = symmetries(hamiltonian, lattice, limit=limit, spin_flip=spin_flip)
    return group if len(group) > 1 else None


def most_images(n_configs: int) -> int:
    """Of a configuration, in a basis of n_configs; 1 without symmetries."""
    return next((images for largest, images in IMAGES if n_configs <= largest), 1)
