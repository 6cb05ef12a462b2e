"""The grammar of the coordinate tokeniser.

All rows are at the same field at the same time, since every atom takes four tokens and only eos
ends a row: the field follows from the number of tokens read, and what differs by row (angles,
atoms that remain, whether it has ended) is a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from nqs.crystal.coordinate_fields import EOS, PAD, Fields, angle_table
from nqs.crystal.tokeniser import Grammar

CELL = 6
"""Tokens of a cell."""
ATOM = 4
"""Tokens of an atom."""


@final
class CoordinateGrammar(Grammar):
    """What may follow; see `Grammar`.

    Args:
        prefix: condition tokens, forced.
        body: tokens of the partial structure (a cell and whole atoms) or none, forced.
        remaining: atomic number -> atoms still to be placed after the body; None: any, up to
            max_atoms in all.
    """

    def __init__(
        self,
        fields: Fields,
        n_rows: int,
        prefix: Sequence[int],
        body: Sequence[int],
        remaining: Mapping[int, int] | None,
        max_atoms: int,
        device: torch.device | str,
    ) -> None:
        self._fields, self._n_rows, self._device = fields, n_rows, device
        self._forced = [*prefix, *body]
        self._n_prefix, self._step = len(prefix), 0
        self._max_atoms = max_atoms
        self._finished = torch.zeros(n_rows, dtype=torch.bool, device=device)  # (R,)
        self._remaining: Tensor | None = None  # (R, elements)
        if remaining is not None:
            counts = torch.zeros(len(fields.element), dtype=torch.int64)
            for number, count in remaining.items():
                counts[number - 1] = count
            self._remaining = counts.to(device).repeat(n_rows, 1)
            self._max_atoms = max(len(body) - CELL, 0) // ATOM + sum(remaining.values())
        self.max_length = len(prefix) + CELL + ATOM * self._max_atoms + 2
        triples = torch.from_numpy(angle_table()).to(device)  # (alpha, beta, gamma)
        pairs = triples.any(2)
        self._angle_tables = (pairs.any(1), pairs, triples)
        self._angles: list[Tensor] = []  # alpha and beta as grid indices, (R,) each

    def allowed(self) -> Tensor:
        mask = torch.zeros(
            self._n_rows, len(self._fields.vocabulary), dtype=torch.bool, device=self._device
        )
        step = self._step - self._n_prefix  # within the body
        if self._step < len(self._forced):
            mask[:, self._forced[self._step]] = True
        elif step < 3:
            mask[:, _columns(self._fields.length)] = True
        elif step < CELL:
            table = self._angle_tables[step - 3]
            mask[:, _columns(self._fields.angle)] = (
                table[tuple(self._angles)] if step > 3 else table
            )
        elif (step - CELL) % ATOM:
            mask[:, _columns(self._fields.coordinate)] = True
        else:
            self._allow_an_atom(mask, (step - CELL) // ATOM)
        mask.masked_fill_(self._finished[:, None], False)
        mask[:, PAD] = self._finished
        return mask

    def advance(self, tokens: Tensor) -> None:
        step = self._step - self._n_prefix
        if 3 <= step < CELL - 1:
            self._angles.append(tokens - self._fields.angle.start)
        forced = self._step < len(self._forced)  # its atoms were never among the remaining
        if not forced and step >= CELL and (step - CELL) % ATOM == 0:
            self._take(tokens)
        self._finished |= tokens == EOS
        self._step += 1

    def _allow_an_atom(self, mask: Tensor, n_atoms: int) -> None:
        """Another atom, or the end."""
        elements = _columns(self._fields.element)
        if self._remaining is not None:
            left = self._remaining > 0
            mask[:, elements] = left
            mask[:, EOS] = ~left.any(1)
        else:
            mask[:, elements] = n_atoms < self._max_atoms
            mask[:, EOS] = n_atoms > 0

    def _take(self, tokens: Tensor) -> None:
        """One atom less of the element that each row drew; eos and pad take none."""
        if self._remaining is None:
            return
        index = tokens - self._fields.element.start  # (R,)
        drawn = (index >= 0) & (index < self._remaining.shape[1])
        index = index.clamp(0, self._remaining.shape[1] - 1)
        self._remaining.scatter_add_(1, index[:, None], -drawn.to(torch.int64)[:, None])


def _columns(tokens: range) -> slice:
    return slice(tokens.start, tokens.stop)
