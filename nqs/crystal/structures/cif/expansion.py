"""From listed atoms and operators to all atoms of the cell.

A site on a special position comes out of a file with its digits cut off (0.3333); the average of
the operators that leave it where it is puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.structures.cif.operators import Operators
from nqs.crystal.structures.cif.sites import MOST_ATOMS, Sites
from nqs.crystal.structures.structure import CrystalError, Floats, Structure, wrap

MERGED = 0.1
"""Images of a site nearer than this, in Angstrom, are the same atom; two sites may not be."""


@dataclass(frozen=True)
class Expanded:
    """All atoms of the cell: numbers (A,), positions (A, 3), and atoms of each listed site."""

    numbers: NDArray[np.int64]
    positions: Floats
    sizes: list[int]


def expanded(sites: Sites, matrix: Floats, operators: Operators) -> Expanded:
    """All images of the sites, once each. Raises CrystalError for too many."""
    if operators.only_identity:
        return Expanded(sites.numbers, wrap(sites.positions), [1] * len(sites.numbers))
    orbits = [orbit(position, matrix, operators) for position in sites.positions]
    sizes = [len(images) for images in orbits]
    if sum(sizes) > MOST_ATOMS:
        raise CrystalError(f"{sum(sizes)} atoms in the cell: at most {MOST_ATOMS} are read")
    return Expanded(np.repeat(sites.numbers, sizes), np.concatenate(orbits), sizes)


def orbit(position: Floats, matrix: Floats, operators: Operators) -> Floats:
    """The distinct images (M, 3) of a position; those nearer than MERGED become their average.

    Each comes from equally many operators, so that the group maps the average images onto each
    other; raises CrystalError for a position that is neither on a special position nor off it.
    """
    images = wrap(operators.images(position))  # (G, 3)
    distinct, shares = [], set()
    while len(images):
        offsets = images - images[0]
        offsets -= np.round(offsets)  # exact for the short distances that matter
        near = np.linalg.norm(offsets @ matrix, axis=1) < MERGED
        distinct.append(images[0] + offsets[near].mean(axis=0))
        shares.add(int(near.sum()))
        images = images[~near]
    if len(shares) > 1:
        raise CrystalError(
            f"the atom at {np.round(position, 4).tolist()} is about {MERGED:g} Angstrom from its "
            f"own images: neither one atom nor several"
        )
    return wrap(np.array(distinct))


def holds_all_images(structure: Structure, operators: Operators) -> bool:
    """Whether every image of every atom is an atom of the same element."""
    positions, matrix = structure.positions, structure.matrix
    for number, position in zip(structure.numbers, positions, strict=True):
        alike = positions[structure.numbers == number]
        offsets = operators.images(position)[:, None] - alike  # (G, M, 3)
        offsets -= np.round(offsets)
        if np.linalg.norm(offsets @ matrix, axis=2).min(axis=1).max() > MERGED:
            return False
    return True


def check_distances(structure: Structure) -> None:
    """Raises CrystalError if two atoms are on one another."""
    positions, matrix = structure.positions, structure.matrix
    for index in range(1, structure.n_atoms):
        offsets = positions[:index] - positions[index]
        offsets -= np.round(offsets)
        distances = np.linalg.norm(offsets @ matrix, axis=1)
        if distances.min() < MERGED:
            raise CrystalError(
                f"atoms {int(distances.argmin())} and {index} are {distances.min():.3f} Angstrom "
                f"apart: at least {MERGED:g} is needed"
            )
