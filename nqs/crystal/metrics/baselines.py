"""What needs no model: guesses at a structure from its composition alone.

Nearest template: a training crystal with the same numbers of atoms of each kind, its elements
exchanged for the wanted ones. Kinds with equal counts may be exchanged in several ways, each of
them a guess of its own. Guesses come in the order of

    distance = sum over atoms of |M(element in the template) - M(element wanted)|,

with M the Mendeleev number (Magpie's), along which chemically alike elements are neighbours. Cells
keep the template's size: matching scales to one volume.

Constant cell: for five-atom sets of perovskites (Perov-5), the ideal cubic cell of the training
set's mean length, whatever the elements; the two least electronegative atoms go to A (corner) and B
(centre), and the second guess has them exchanged. Perov-5 holds both orders of every composition.

Hedged cell: the same with the anions half-way between the faces (where they belong) and the edges
(where they belong if A and B are exchanged). It is no crystal, and within stol of both orders: the
match rate alone cannot tell it from a perfect model, the RMSE does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, groupby, islice, permutations, product

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.metrics.fingerprints import mendeleev_number
from nqs.crystal.structures.elements import formula_order
from nqs.crystal.structures.structure import Structure

MOST_ORDERS = 720
"""Ways to exchange elements of equal counts that are tried for one composition (6!)."""

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

Pattern = tuple[int, ...]
"""Numbers of atoms of each kind in the cell, sorted."""


def template_guesses(
    train: Sequence[Structure], test: Sequence[Structure], n: int
) -> list[list[Structure]]:
    """Up to n guesses for each test composition, the nearest first; none without a template."""
    templates: dict[Pattern, list[tuple[tuple[int, ...], Structure]]] = defaultdict(list)
    wanted = {_pattern(structure)[0] for structure in test}
    for structure in train:
        pattern, elements = _pattern(structure)
        if pattern in wanted:
            templates[pattern].append((elements, structure))
    scales = {
        pattern: np.array([[mendeleev_number(z) for z in elements] for elements, _ in found])
        for pattern, found in templates.items()
    }
    guesses: list[list[Structure]] = []
    for structure in test:
        pattern, elements = _pattern(structure)
        if pattern not in templates:
            guesses.append([])
            continue
        order = _nearest(scales[pattern], pattern, elements, n)
        guesses.append([_exchanged(*templates[pattern][t], new) for t, new in order])
    return guesses


def _pattern(structure: Structure) -> tuple[Pattern, tuple[int, ...]]:
    """Counts in ascending order, and the elements that have them."""
    counts = sorted((count, number) for number, count in structure.composition.items())
    return tuple(count for count, _ in counts), tuple(number for _, number in counts)


def _orders(pattern: Pattern, elements: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The elements in every order that keeps the counts, at most MOST_ORDERS."""
    kinds = groupby(zip(pattern, elements, strict=True), key=lambda kind: kind[0])
    alike = [
        list(islice(permutations(z for _, z in group), MOST_ORDERS)) for _, group in kinds
    ]  # for each count the orders of its elements
    return [tuple(chain(*order)) for order in islice(product(*alike), MOST_ORDERS)]


def _nearest(
    scales: NDArray[np.float64], pattern: Pattern, elements: tuple[int, ...], n: int
) -> list[tuple[int, tuple[int, ...]]]:
    """The n nearest (template, elements in its order); scales (T, kinds)."""
    orders = _orders(pattern, elements)
    wanted = np.array([[mendeleev_number(z) for z in order] for order in orders])  # (P, kinds)
    gaps = np.abs(scales[:, None, :] - wanted[None, :, :])  # (T, P, kinds)
    distances = (gaps @ np.array(pattern, dtype=np.float64)).ravel()  # (T P,)
    best = np.argsort(distances, kind="stable")[:n]
    return [(int(k) // len(orders), orders[int(k) % len(orders)]) for k in best]


def _exchanged(old: tuple[int, ...], template: Structure, new: tuple[int, ...]) -> Structure:
    exchange = dict(zip(old, new, strict=True))
    numbers = np.array([exchange[z] for z in template.numbers.tolist()], dtype=np.int64)
    return Structure(template.lengths, template.angles, numbers, template.positions)


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
