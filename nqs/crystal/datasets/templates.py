"""Templates: known crystals with their elements exchanged for wanted ones, the nearest first.

A template of a composition is a known crystal with the same numbers of atoms of each kind. Kinds
with equal counts may be exchanged in several ways, each of them a template of its own. They come in
the order of

    distance = sum over atoms of |M(element in the known crystal) - M(element wanted)|,

M the Mendeleev number, along which chemically alike elements are neighbours, then in the order of
the known ones. The cell is scaled to the volume of the new elements,

    V' / V = sum_i v(new element of atom i) / sum_i v(old one),

v the volumes of atoms that fit the known crystals best (non-negative least squares).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, islice, permutations, product
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial.distance import cdist

from nqs.crystal.structures.elements import HEAVIEST, MENDELEEV, formula_order
from nqs.crystal.structures.structure import Floats, Structure
from nqs.crystal.structures.symmetry import ordered

MOST_ORDERS: Final = 720
"""Ways to exchange elements of equal counts that are tried for one composition (6!)."""
AT_ONCE: Final = 4_000_000
"""Distances computed at a time."""

Pattern = tuple[int, ...]
"""Numbers of atoms of each kind in the cell, sorted."""


@dataclass(frozen=True)
class Exchange:
    """How a known crystal becomes another one.

    Attributes:
        index: of the known crystals.
        elements: atomic number -> the one that takes its place.
        scale: of the volume.
        distance: 0 for the same composition.
    """

    index: int
    elements: Mapping[int, int]
    scale: float
    distance: float

    @property
    def before(self) -> tuple[int, ...]:
        """The elements that stood in the places of the new ones, these in the order of formulas."""
        old = {new: number for number, new in self.elements.items()}
        return tuple(old[number] for number in sorted(old, key=formula_order))


def exchanged(known: Structure, exchange: Exchange) -> Structure:
    """The known crystal with its elements exchanged, scaled, its atoms in order."""
    return ordered(known.exchanged(exchange.elements, exchange.scale))


@final
class Templates:
    """Those that known crystals give."""

    def __init__(self, known: Sequence[Structure]) -> None:
        self.known = known
        members: dict[Pattern, list[int]] = defaultdict(list)
        self._elements = []
        for index, structure in enumerate(known):
            pattern, elements = _pattern(structure.composition)
            members[pattern].append(index)
            self._elements.append(elements)
        self._members = dict(members)

    @cached_property
    def volumes(self) -> Floats:
        """(118,) of an atom of each element, Angstrom^3; those of elements that do not occur, or
        come out as 0, are the mean of the others."""
        counts = np.zeros((len(self.known), HEAVIEST))
        for row, structure in zip(counts, self.known, strict=True):
            np.add.at(row, structure.numbers - 1, 1.0)
        n_atoms = counts.sum(1)
        an_atom = np.array([structure.volume for structure in self.known]) / n_atoms
        occurs = counts.any(0)
        fitted = np.zeros(HEAVIEST)
        fitted[occurs], _ = nnls(counts[:, occurs] / n_atoms[:, None], an_atom)
        return np.where(fitted > 0, fitted, fitted[fitted > 0].mean())

    def nearest(
        self,
        compositions: Sequence[Mapping[int, int]],
        n: int,
        leave_out: Sequence[int | None] | None = None,
    ) -> list[list[Exchange]]:
        """Up to n for each composition, the nearest first; none where nothing has its pattern.

        leave_out: of each composition, a known crystal that is not to be among them.
        """
        wanted: dict[Pattern, list[int]] = defaultdict(list)
        patterns = [_pattern(composition) for composition in compositions]
        for place, (pattern, _) in enumerate(patterns):
            wanted[pattern].append(place)
        found: list[list[Exchange]] = [[] for _ in compositions]
        for pattern, places in wanted.items():
            members = np.array(self._members.get(pattern, ()), dtype=np.int64)  # (T,)
            if not len(members):
                continue
            known = [self._elements[member] for member in members]
            n_orders = len(_orders(pattern, patterns[places[0]][1]))
            size = max(1, AT_ONCE // (n_orders * len(members)))
            for start in range(0, len(places), size):
                part = places[start : start + size]
                orders = [_orders(pattern, patterns[place][1]) for place in part]
                distances = _distances(pattern, known, orders)  # (R, T, P)
                for place, kinds, rows in zip(part, orders, distances, strict=True):
                    omitted = None if leave_out is None else leave_out[place]
                    rows[members == omitted] = np.inf
                    found[place] = self._exchanges(members, kinds, rows, n)
        return found

    def _exchanges(
        self, members: NDArray[np.int64], orders: list[tuple[int, ...]], distances: Floats, n: int
    ) -> list[Exchange]:
        """The n nearest of distances (T, P)."""
        flat = distances.ravel()
        n_near = min(n, int(np.isfinite(flat).sum()))
        if n_near == 0:
            return []
        near = np.flatnonzero(flat <= np.partition(flat, n_near - 1)[n_near - 1])  # and its equals
        order = near[flat[near].argsort(kind="stable")][:n_near]
        found = []
        for flat_index in order.tolist():
            member, which = divmod(flat_index, len(orders))
            index = int(members[member])
            elements = dict(zip(self._elements[index], orders[which], strict=True))
            structure = self.known[index]
            old = self.volumes[structure.numbers - 1].sum()
            new = sum(self.volumes[elements[z] - 1] for z in structure.numbers.tolist())
            found.append(Exchange(index, elements, float(new / old), float(flat[flat_index])))
        return found


def _pattern(composition: Mapping[int, int]) -> tuple[Pattern, tuple[int, ...]]:
    """Counts in ascending order, and the elements that have them."""
    counts = sorted((count, number) for number, count in composition.items())
    return tuple(count for count, _ in counts), tuple(number for _, number in counts)


def _orders(pattern: Pattern, elements: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The elements in every order that keeps the counts, at most MOST_ORDERS."""
    kinds = groupby(zip(pattern, elements, strict=True), key=lambda kind: kind[0])
    alike = [
        list(islice(permutations(z for _, z in group), MOST_ORDERS)) for _, group in kinds
    ]  # for each count the orders of its elements
    return [tuple(chain(*order)) for order in islice(product(*alike), MOST_ORDERS)]


def _distances(
    pattern: Pattern,
    known: Sequence[tuple[int, ...]],
    orders: Sequence[Sequence[tuple[int, ...]]],
) -> Floats:
    """(R, T, P) of R compositions in P orders from T known ones."""
    scale, weights = np.array(MENDELEEV, dtype=np.float64), np.array(pattern, dtype=np.float64)
    places = scale[np.array(known) - 1] * weights  # (T, kinds)
    wanted = scale[np.array(orders) - 1] * weights  # (R, P, kinds)
    n_rows, n_orders, n_kinds = wanted.shape
    flat = cdist(wanted.reshape(-1, n_kinds), places, "cityblock")
    return np.ascontiguousarray(flat.reshape(n_rows, n_orders, -1).transpose(0, 2, 1))
