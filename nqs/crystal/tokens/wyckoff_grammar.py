"""The grammar of the Wyckoff tokeniser: each row walks through

    [conditions]  element count ...  group  (element site) ...  size  free ratios  free angles
        free coordinates ...  eos

and says before each token what may follow. Counts and sites are such that the formula can still be
reached, elements come in its order, a site without freedom is named once, and free coordinates are
those of no more special site: whatever is drawn has the atoms of its formula and the operations of
its group.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nqs.crystal.structures.elements import formula_order
from nqs.crystal.structures.structure import cell_matrix
from nqs.crystal.tokens.coordinate_fields import EOS, PAD, WIDEST, Fields, angle_table
from nqs.crystal.tokens.reachable_formulas import formulas_of, groups_of
from nqs.crystal.tokens.tokeniser import Grammar
from nqs.crystal.tokens.wyckoff_description import (
    FREE_ANGLES,
    FREE_RATIOS,
    Description,
    Orbit,
    cell_of,
    size_of,
    table_of,
)

if TYPE_CHECKING:
    from nqs.crystal.tokens.kept_apart import KeptApart

Mask = NDArray[np.bool_]
"""(V,): which tokens may follow."""
Walk = Generator[Mask, int, None]

CELL = 6
"""Most tokens of a cell."""
ATOM = 5
"""Most tokens of an atom."""


@final
class WyckoffGrammar(Grammar):
    """What may follow; see `Grammar`.

    Args:
        head: tokens of the conditions without the composition, forced.
        composition: atomic number -> atoms; None: it is drawn.
        group: the space group; None: it is drawn.
        partial: whose group, orbits and shape of the cell are forced; None: nothing is given.
        volume: of its primitive cell.
        max_atoms: most atoms in all.
        apart: Angstrom; the last free coordinate of an orbit keeps its atoms so far from all
            others, where one can; None: they may stand anywhere.
    """

    def __init__(
        self,
        fields: Fields,
        n_rows: int,
        head: Sequence[int],
        composition: Mapping[int, int] | None,
        group: int | None,
        partial: Description | None,
        volume: float,
        max_atoms: int,
        apart: float | None,
        device: torch.device | str,
    ) -> None:
        self._apart = apart
        self._fields, self._head, self._device = fields, head, device
        self._composition, self._max_atoms = composition, max_atoms
        self._group = group if partial is None else partial.group
        self._partial = partial
        self._held = {} if partial is None else partial.composition
        self._used = frozenset() if partial is None else {o.position for o in partial.orbits}
        self._volume = volume
        n_atoms = max_atoms if composition is None else sum(composition.values())
        n_terms = min(n_atoms, len(fields.element)) if composition is None else len(composition)
        self.max_length = 2 + len(head) + 2 * n_terms + 1 + CELL + ATOM * n_atoms
        self._order = sorted(range(1, len(fields.element) + 1), key=formula_order)
        self._walks = [self._walk() for _ in range(n_rows)]
        self._masks = [next(walk) for walk in self._walks]

    def allowed(self) -> Tensor:
        return torch.from_numpy(np.stack(self._masks)).to(self._device)

    def advance(self, tokens: Tensor) -> None:
        drawn = tokens.tolist()  # CPU-GPU sync
        self._masks = [walk.send(token) for walk, token in zip(self._walks, drawn, strict=True)]

    def _walk(self) -> Walk:
        """One row."""
        fields, partial = self._fields, self._partial
        for token in self._head:
            yield self._only(token)
        counts, group = yield from self._formula()
        sites = yield from self._orbits(counts, group)
        given = () if partial is None else partial.orbits
        if partial is None:
            size, ratios, angles = yield from self._lattice(table_of(group).group.system)
        else:
            size = size_of(self._volume, sum(counts.values()))
            ratios, angles = partial.ratios, partial.angles
            for token in (fields.size[size], *shape_tokens(fields, partial)):
                yield self._only(token)
        new = tuple(Orbit(formula_order(element), site, ()) for element, site in sites)
        standing = self._standing(Description(group, size, ratios, angles, (*given, *new)))
        for orbit in given:
            for index in orbit.free:
                yield self._only(fields.coordinate[index])
        for _, site in sites:
            yield from self._coordinates(group, site, standing)
        yield self._only(EOS)
        while True:
            yield self._only(PAD)

    def _standing(self, planned: Description) -> KeptApart | None:
        """The atoms of given orbits and of those without freedom, in the planned cell."""
        if self._apart is None:
            return None
        from nqs.crystal.tokens.kept_apart import KeptApart  # spglib is of an extra

        table = table_of(planned.group)
        standing = KeptApart(table, cell_matrix(*cell_of(planned)), self._apart)
        n_given = 0 if self._partial is None else len(self._partial.orbits)
        for place, orbit in enumerate(planned.orbits):
            if place < n_given or not table.dimensions[orbit.position]:
                standing.add(orbit.position, orbit.free)
        return standing

    def _orbits(
        self, counts: Mapping[int, int], group: int
    ) -> Generator[Mask, int, list[tuple[int, int]]]:
        """Element and site of each orbit, those of the given atoms first; the others are
        returned."""
        fields, table = self._fields, table_of(group)
        remaining, used, sites = dict(counts), set[int](), list[tuple[int, int]]()
        for orbit in () if self._partial is None else self._partial.orbits:
            remaining[orbit.element] -= table.multiplicities[orbit.position]
            used.add(orbit.position)
            for token in orbit_tokens(fields, orbit):
                yield self._only(token)
        for element in sorted(remaining, key=formula_order):
            while remaining[element]:
                yield self._only(fields.element[element - 1])
                open_sites = self._sites(group, remaining, element, used)
                site = (yield self._mask(open_sites)) - fields.site.start
                remaining[element] -= table.multiplicities[site]
                used.add(site)
                sites.append((element, site))
        return sites

    def _coordinates(self, group: int, site: int, standing: KeptApart | None) -> Walk:
        """The free coordinates of an orbit."""
        table = table_of(group)
        n_free = table.dimensions[site]
        free: tuple[int, ...] = ()
        while len(free) < n_free:
            values = table.allowed(site, free)
            if standing is not None and len(free) == n_free - 1:
                apart = values & standing.allowed(site, free)
                values = apart if apart.any() else values
            mask = self._mask(())
            mask[_columns(self._fields.coordinate)] = values
            free = (*free, (yield mask) - self._fields.coordinate.start)
        if standing is not None and n_free:
            standing.add(site, free)

    def _formula(self) -> Generator[Mask, int, tuple[dict[int, int], int]]:
        """The counts and the group."""
        fields, counts = self._fields, {}
        if self._composition is not None:
            counts = dict(self._composition)
            for number in sorted(counts, key=formula_order):
                yield self._only(fields.element[number - 1])
                yield self._only(fields.count[counts[number] - 1])
            token = yield self._mask(self._groups(counts))
            return counts, token - fields.group.start + 1
        while True:
            over = counts and not self._held.keys() - counts
            choices = [fields.element[n - 1] for n in self._next_elements(counts)]
            token = yield self._mask([*choices, *(self._groups(counts) if over else ())])
            if token in fields.group:
                return counts, token - fields.group.start + 1
            number = token - fields.element.start + 1
            mask = self._mask([fields.count[n - 1] for n in self._next_counts(counts, number)])
            counts[number] = (yield mask) - fields.count.start + 1

    def _next_elements(self, counts: Mapping[int, int]) -> list[int]:
        """After the last one in the order of formulas, up to the next one that a given atom needs,
        if a count of it fits."""
        last = max((self._order.index(number) for number in counts), default=-1)
        missing = [self._order.index(number) for number in self._held if number not in counts]
        end = min(missing, default=len(self._order) - 1)
        others = [number for number in self._order[last + 1 : end + 1] if number not in self._held]
        fits = bool(others) and any(True for _ in self._next_counts(counts, others[0]))
        asked = [self._order[end]] if missing else []
        return [*(others if fits else ()), *asked]

    def _next_counts(self, counts: Mapping[int, int], number: int) -> Generator[int, None, None]:
        """At least what the given atoms need, at most what leaves room for others, and such that
        the group can hold them."""
        held = self._held.get(number, 0)
        reserved = sum(n for other, n in self._held.items() if other not in {*counts, number})
        room = self._max_atoms - sum(counts.values()) - reserved
        before = [n - self._held.get(other, 0) for other, n in counts.items()]
        for count in range(max(held, 1), room + 1):
            added = [*before, count - held]
            if self._group is None or formulas_of(self._group).reaches(added, self._used):
                yield count

    def _groups(self, counts: Mapping[int, int]) -> list[int]:
        """Tokens of the groups that can hold the formula."""
        known = self._group is not None
        groups = [self._group] if known else groups_of(tuple(sorted(counts.values())))
        return [self._fields.group[group - 1] for group in groups if group is not None]

    def _lattice(
        self, system: str
    ) -> Generator[Mask, int, tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """The numbers of size, free ratios and free angles."""
        fields = self._fields
        size = (yield self._mask(fields.size)) - fields.size.start
        ratios = [0]  # steps of a / a, ...
        for _ in FREE_RATIOS[system]:
            least, most = max(ratios) - WIDEST, min(ratios) + WIDEST
            token = yield self._mask(fields.ratio[least + WIDEST : most + WIDEST + 1])
            ratios.append(token - fields.ratio.start - WIDEST)
        makes_cell = angle_table()
        drawn: tuple[int, ...] = ()
        for place in range(len(FREE_ANGLES.get(system, ()))):
            mask = self._mask(())
            table = makes_cell if system == "triclinic" else makes_cell[85, :, 85]  # 90 degrees
            open_ends = tuple(range(1, table.ndim - place))
            mask[_columns(fields.angle)] = table[drawn].any(open_ends)
            drawn = (*drawn, (yield mask) - fields.angle.start)
        return size, tuple(step + WIDEST for step in ratios[1:]), drawn

    def _sites(
        self, group: int, remaining: Mapping[int, int], element: int, used: set[int]
    ) -> list[int]:
        """Sites for the element after which all that remains can still be placed."""
        formulas, found = formulas_of(group), []
        for site, (size, once) in enumerate(
            zip(formulas.multiplicities, formulas.single, strict=True)
        ):
            if size <= remaining[element] and not (once and site in used):
                after = {**remaining, element: remaining[element] - size}
                if formulas.reaches(after.values(), {*used, site}):
                    found.append(self._fields.site[site])
        return found

    def _only(self, token: int) -> Mask:
        return self._mask((token,))

    def _mask(self, tokens: Sequence[int]) -> Mask:
        mask = np.zeros(len(self._fields.vocabulary), dtype=bool)
        mask[list(tokens)] = True
        return mask


def description_tokens(fields: Fields, description: Description) -> list[int]:
    """Group, sites, cell, free coordinates."""
    tokens = [fields.group[description.group - 1]]
    for orbit in description.orbits:
        tokens += orbit_tokens(fields, orbit)
    tokens += [fields.size[description.size], *shape_tokens(fields, description)]
    return tokens + [fields.coordinate[i] for orbit in description.orbits for i in orbit.free]


def orbit_tokens(fields: Fields, orbit: Orbit) -> list[int]:
    """Element and site."""
    return [fields.element[orbit.element - 1], fields.site[orbit.position]]


def shape_tokens(fields: Fields, description: Description) -> list[int]:
    """Free ratios and angles."""
    ratios = [fields.ratio[index] for index in description.ratios]
    return ratios + [fields.angle[index] for index in description.angles]


def _columns(tokens: range) -> slice:
    return slice(tokens.start, tokens.stop)
