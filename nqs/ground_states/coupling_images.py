"""Which symmetries of the lattice take a family's Hamiltonians into each other.

With disorder no H(c) has them; but g takes H(c) to H(g c), the same numbers at the sites and bonds
to which g moves them, and so the family's state may be averaged
(`nqs.wavefunctions.image_average`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hamiltonians.invariance import takes_into
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.symmetries import symmetries
from nqs.ground_states.automatic_symmetry import most_images
from nqs.ground_states.build import Job
from nqs.ground_states.couplings import Coupling
from nqs.wavefunctions.symmetrised import Symmetrised

if TYPE_CHECKING:
    from nqs.ground_states.members import Members


def coupling_images(job: Job, members: Members) -> tuple[SymmetryGroup, Tensor] | None:
    """Symmetries of the lattice, M elements g, and (M, n) which of the couplings c are those of
    g c, (g c)_k = c[places[g, k]]. None without disorder, and where an average is not sure to lower
    the energy or to pay, by the same rules as model.symmetry=auto of single runs.
    """
    model = job.config.model
    if not members.has_disorder or model.phase or model.symmetry != "auto" or model.odd:
        return None
    even = members.at((members.low + members.high) / 2)
    some = members.drawn(1, torch.Generator().manual_seed(0))[0]
    n_sites, n_up = even.n_sites, model.n_up
    known = job.wavefunction.n_images if isinstance(job.wavefunction, Symmetrised) else 1
    limit = most_images(2**n_sites if n_up is None else math.comb(n_sites, n_up)) // known
    if limit < 2 or not (even.is_stoquastic and members.at(some).is_stoquastic):
        return None
    group = symmetries(even, job.lattice, limit=limit, spin_flip=False)
    places = [_moved(members.couplings, job.lattice, row.tolist()) for row in group.permutations]
    found = [each for each in places if each is not None]
    if len(group) < 2 or len(found) < len(group):
        return None
    for row, own in zip(group.permutations, found, strict=True):
        if not takes_into(members.at(some), members.at(some[own]), row):
            return None
    return group, torch.tensor(found)


def _moved(couplings: tuple[Coupling, ...], lattice: Lattice, row: list[int]) -> list[int] | None:
    """Which of the couplings c are those of g c; None where it is not known where they are, or g
    takes some to where there are none."""
    moved: list[int] = []
    for each in couplings:
        first = len(moved)
        if not each.law.is_disorder:
            moved.append(first)
            continue
        sites = _sites(each, lattice)
        number = {frozenset(own): first + k for k, own in enumerate(sites)}
        images = [number.get(frozenset(row[i] for i in own)) for own in sites]
        found = [image for image in images if image is not None]
        if len(number) < each.size or len(found) < each.size:
            return None
        moved += found
    return moved


def _sites(coupling: Coupling, lattice: Lattice) -> tuple[tuple[int, ...], ...]:
    """Those that each number belongs to; where that is not said, of as many sites or bonds."""
    if coupling.places or coupling.size == lattice.n_sites:
        return coupling.places or tuple((i,) for i in range(lattice.n_sites))
    bonds = tuple((i, j) for i, j in lattice.bonds().tolist())
    return bonds if len(bonds) == coupling.size else ()
