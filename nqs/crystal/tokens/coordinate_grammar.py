"""The grammar of the coordinate tokeniser, in tensors: each row is at a slot of its own,

    [element count] ...  a b c  alpha beta gamma  [element x y z] ...  eos

or in the text that is forced before it. What the formula says is what the atoms are: counts are
drawn so that a given partial structure fits, and atoms until none remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from nqs.crystal.structures.elements import formula_order
from nqs.crystal.tokens.coordinate_fields import EOS, PAD, Fields, angle_table
from nqs.crystal.tokens.tokeniser import Grammar

CELL = 6
"""Tokens of a cell."""
ATOM = 4
"""Tokens of an atom."""
TERM, COUNT, ALPHA, BETA, GAMMA, ELEMENT, LAST = 0, 1, 5, 6, 7, 8, 11
"""Slots: a term of the formula and its count, the cell (2..7), an element, its coordinates."""
AFTER = (COUNT, TERM, 3, 4, ALPHA, BETA, GAMMA, ELEMENT, 9, 10, LAST, ELEMENT)
"""The slot after each one; TERM ends with the first token of the cell."""
FIRST_LENGTH = 2


@final
class CoordinateGrammar(Grammar):
    """What may follow; see `Grammar`.

    Args:
        head: tokens of the conditions without the composition, forced.
        formula: tokens of the composition, forced; none: it is drawn.
        body: tokens of the partial structure (a cell and whole atoms) or none, forced.
        held: atomic number -> atoms of the partial structure.
        composition: atomic number -> atoms in all; None: it is drawn.
        max_atoms: most atoms in all.
    """

    def __init__(
        self,
        fields: Fields,
        n_rows: int,
        head: Sequence[int],
        formula: Sequence[int],
        body: Sequence[int],
        held: Mapping[int, int],
        composition: Mapping[int, int] | None,
        max_atoms: int,
        device: torch.device | str,
    ) -> None:
        self._fields, self._device = fields, device

        def rows(value: int) -> Tensor:
            return torch.full((n_rows,), value, dtype=torch.int64, device=device)

        def by_element(counts: Mapping[int, int]) -> Tensor:  # (E,)
            table = torch.zeros(len(fields.element), dtype=torch.int64)
            for number, count in counts.items():
                table[number - 1] = count
            return table.to(device)

        drawn = composition is None
        forced = [*head] if drawn else [*head, *formula, *body]
        self._bank = torch.tensor([*forced, *(body if drawn else ()), PAD], device=device)
        self._after_formula = (len(forced), len(forced) + len(body)) if drawn else (0, 0)
        self._at, self._until = rows(0), rows(len(forced))
        start = TERM if drawn else ELEMENT if body else FIRST_LENGTH
        self._slot = rows(start)
        self._finished = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self._alpha, self._beta = rows(0), rows(0)
        self._held = by_element(held)
        wanted = self._held if drawn else by_element(composition or {})
        self._remaining = (wanted - self._held).repeat(n_rows, 1)  # (R, E) atoms to be placed
        order = sorted(range(1, len(wanted) + 1), key=formula_order)
        self._rank = by_element({number: rank for rank, number in enumerate(order)})
        self._after = torch.tensor(AFTER, device=device)
        self._last = rows(-1)  # element of the last term, -1 before the first
        self._missing = self._held.repeat(n_rows, 1)  # (R, E) held atoms of elements not yet named
        self._room = rows(max_atoms)
        n_atoms = max_atoms if composition is None else sum(composition.values())
        n_terms = min(n_atoms, len(fields.element)) if composition is None else len(composition)
        self.max_length = 2 + len(head) + 2 * n_terms + CELL + ATOM * n_atoms
        self._fixed = _slot_masks(fields).to(device)  # (slots, V)
        triples = torch.from_numpy(angle_table()).to(device)  # (alpha, beta, gamma)
        pairs = triples.any(2)
        self._angle_tables = (pairs.any(1), pairs, triples)

    def allowed(self) -> Tensor:
        fields, slot = self._fields, self._slot
        mask = self._fixed[slot]
        elements, angles = _columns(fields.element), _columns(fields.angle)
        present = torch.bincount(slot, minlength=LAST + 1).tolist()  # CPU-GPU sync
        if present[TERM]:
            rows = slot == TERM
            named = self._next_terms()
            over = (self._last >= 0) & ~(self._missing > 0).any(1)
            mask[:, elements] = torch.where(rows[:, None], named, mask[:, elements])
            mask &= ~rows[:, None] | over[:, None] | ~self._fixed[FIRST_LENGTH]
            if self._after_formula[0] < self._after_formula[1]:  # the cell is given
                given = rows[:, None] & self._fixed[FIRST_LENGTH]
                mask &= ~given
                mask[:, self._bank[self._after_formula[0]]] |= rows & over
        if present[COUNT]:
            counts = _columns(fields.count)
            mask[:, counts] = torch.where(
                (slot == COUNT)[:, None], self._next_counts(), mask[:, counts]
            )
        for place, table in zip((ALPHA, BETA, GAMMA), self._angle_tables, strict=True):
            if present[place]:
                index = ((), (self._alpha,), (self._alpha, self._beta))[place - ALPHA]
                mask[:, angles] = torch.where(
                    (slot == place)[:, None], table[index], mask[:, angles]
                )
        if present[ELEMENT]:
            rows, left = slot == ELEMENT, self._remaining > 0
            mask[:, elements] = torch.where(rows[:, None], left, mask[:, elements])
            mask[:, EOS] |= rows & ~left.any(1)
        forced = torch.zeros_like(mask).scatter_(1, self._forced()[:, None], True)
        literal = self._finished | (self._at < self._until)
        return torch.where(literal[:, None], forced, mask)

    def advance(self, tokens: Tensor) -> None:
        literal, slot = self._at < self._until, self._slot
        free = ~literal & ~self._finished
        self._at = self._at + literal
        element = (tokens - self._fields.element.start).clamp(0, len(self._fields.element) - 1)
        is_element = self._fixed[TERM, tokens] & ~self._fixed[FIRST_LENGTH, tokens]
        named = free & (slot == TERM) & is_element
        self._last = torch.where(named, element, self._last)
        counted = free & (slot == COUNT)
        self._count(counted, tokens - self._fields.count.start + 1)
        over = free & (slot == TERM) & ~is_element
        begin, end = self._after_formula
        if begin < end:  # the token was the first of the given cell
            self._at = torch.where(over, begin + 1, self._at)
            self._until = torch.where(over, end, self._until)
        angle = tokens - self._fields.angle.start
        self._alpha = torch.where(free & (slot == ALPHA), angle, self._alpha)
        self._beta = torch.where(free & (slot == BETA), angle, self._beta)
        placed = free & (slot == ELEMENT) & is_element
        self._remaining.scatter_add_(1, element[:, None], -placed.to(torch.int64)[:, None])
        begun = ELEMENT if begin < end else FIRST_LENGTH + 1
        self._slot = torch.where(free, torch.where(over, begun, self._after[slot]), slot)
        self._finished = self._finished | (free & (tokens == EOS))

    def _forced(self) -> Tensor:
        """(R,): the literal token of each row, pad where it has ended."""
        return torch.where(self._finished, PAD, self._bank[self._at.clamp(max=len(self._bank) - 1)])

    def _next_terms(self) -> Tensor:
        """(R, E): elements after the last one in the order of formulas, up to the next one that a
        given atom needs, for which there is room."""
        last = torch.where(self._last < 0, -1, self._rank[self._last.clamp_min(0)])
        missing = self._missing > 0
        last_allowed = torch.where(missing, self._rank, len(self._rank)).amin(1)  # (R,)
        later = (self._rank > last[:, None]) & (self._rank <= last_allowed[:, None])
        reserved = self._missing.sum(1, keepdim=True) - self._missing  # for the other elements
        return later & (self._held.clamp_min(1) <= self._room[:, None] - reserved)

    def _next_counts(self) -> Tensor:
        """(R, counts): at least what the given atoms need, at most what leaves room for others."""
        index = self._last.clamp_min(0)
        counts = torch.arange(1, len(self._fields.count) + 1, device=self._device)
        own = self._missing.gather(1, index[:, None])  # (R, 1)
        reserved = self._missing.sum(1, keepdim=True) - own
        return (counts >= own) & (counts <= self._room[:, None] - reserved)

    def _count(self, rows: Tensor, counts: Tensor) -> None:
        """So many atoms of the last element on these rows."""
        counts = torch.where(rows, counts, 0)
        index = self._last.clamp_min(0)[:, None]
        held = torch.where(rows, self._held[index.squeeze(1)], 0)
        self._remaining.scatter_add_(1, index, (counts - held)[:, None])
        self._missing.scatter_add_(1, index, -held[:, None])
        self._room = self._room - counts


def _slot_masks(fields: Fields) -> Tensor:
    """(slots, V): tokens of the kind of each slot; which of them, the rows know."""
    kinds = [fields.element, fields.count]
    kinds += [fields.length] * 3 + [fields.angle] * 3
    kinds += [fields.element] + [fields.coordinate] * 3
    masks = torch.zeros(len(kinds), len(fields.vocabulary), dtype=torch.bool)
    for mask, kind in zip(masks, kinds, strict=True):
        mask[_columns(kind)] = True
    masks[TERM, _columns(fields.length)] = True  # the formula is over
    return masks


def _columns(tokens: range) -> slice:
    return slice(tokens.start, tokens.stop)
