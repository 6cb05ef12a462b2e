"""What needs no model: guesses at a structure from its composition alone.

Nearest template: a training crystal with its elements exchanged (nqs.crystal.datasets.templates),
scaled to the volume of the new ones.

Constant cell: for five-atom sets of perovskites (Perov-5), the ideal cubic cell of the training
set's mean length, whatever the elements; the two least electronegative atoms go to A (corner) and B
(centre), and the second guess has them exchanged. Perov-5 holds both orders of every composition.

Hedged cell: the same with the anions half-way between the faces (where they belong) and the edges
(where they belong if A and B are exchanged). It is no crystal, and within stol of both orders: the
match rate alone cannot tell it from a perfect model, the RMSE does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nqs.crystal.datasets.templates import Templates, exchanged
from nqs.crystal.structures.elements import formula_order
from nqs.crystal.structures.structure import Structure

PEROVSKITE = np.array(
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
)
"""(5, 3): A, B, X, X, X of the ideal cubic cell."""

HEDGED = np.array(
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.25, 0.0], [0.25, 0.0, 0.5], [0.0, 0.5, 0.25]]
)
"""(5, 3): each X a quarter of the cell from a face and from an edge."""

CUBIC = 0.05
"""Relative spread of lengths and of angles up to which a five-atom cell passes for a perovskite."""


def template_guesses(
    train: Sequence[Structure], test: Sequence[Structure], n: int
) -> list[list[Structure]]:
    """Up to n guesses for each test composition, the nearest first; none without a template."""
    found = Templates(train).nearest([structure.composition for structure in test], n)
    return [[exchanged(train[one.index], one) for one in row] for row in found]


def are_perovskites(structures: Sequence[Structure]) -> bool:
    """Whether all have the five atoms and the nearly cubic cell of Perov-5."""
    if not structures:
        return False
    lengths = np.array([s.lengths for s in structures])  # (S, 3)
    angles = np.array([s.angles for s in structures])
    spread = (lengths.max(axis=1) - lengths.min(axis=1)) / lengths.mean(axis=1)
    near = (spread <= CUBIC) & (np.abs(angles / 90 - 1).max(axis=1) <= CUBIC)
    return bool(near.all() and all(s.n_atoms == 5 for s in structures))


def perovskite_guesses(
    train: Sequence[Structure], test: Sequence[Structure]
) -> list[list[Structure]]:
    """The ideal cubic cell of the mean training length, with both orders of A and B."""
    length = float(np.mean([s.lengths for s in train]))
    guesses = []
    for structure in test:
        a, b, *x = sorted(structure.numbers.tolist(), key=formula_order)
        guesses.append([_perovskite(length, [a, b, *x]), _perovskite(length, [b, a, *x])])
    return guesses


def hedged_guesses(train: Sequence[Structure], test: Sequence[Structure]) -> list[list[Structure]]:
    """One guess a composition, half-way between its two orders of A and B."""
    return [
        [Structure(first.lengths, first.angles, first.numbers, HEDGED)]
        for first, _ in perovskite_guesses(train, test)
    ]


def _perovskite(length: float, numbers: Sequence[int]) -> Structure:
    return Structure(
        np.full(3, length), np.full(3, 90.0), np.array(numbers, dtype=np.int64), PEROVSKITE
    )
