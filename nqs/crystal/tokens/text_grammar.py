"""The grammar of crystals that are written as text: an automaton over fields, in tensors.

Each row is at a slot (a number of the cell, an element, a coordinate) or in the literal text that
leads to it. Slots and their transitions are tables; what is drawn so far is a tensor a row:

    literal -> a -> literal -> ... -> gamma -> literal -> [element -> x -> y -> z] ... -> eos

gamma is confined, before it is drawn, to where V^2 / (a b c)^2 = sin^2 alpha sin^2 beta
- (cos gamma - cos alpha cos beta)^2 is at least LEAST_FLATNESS^2: one interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from nqs.crystal.structures.elements import NUMBERS, formula_order
from nqs.crystal.tokens.formats import (
    LARGEST_ANGLE,
    LEAST_FLATNESS,
    LONGEST,
    SMALLEST_ANGLE,
    SPECIAL,
    Format,
    Words,
)
from nqs.crystal.tokens.tokeniser import Grammar
from nqs.crystal.tokens.written_number import WrittenNumbers

PAD, BOS, EOS, MASK = range(len(SPECIAL))
ALPHA, BETA, GAMMA, ELEMENT, TERM, COUNT = 3, 4, 5, 6, 10, 11
"""Slots: 0..5 the cell, 6 an element, 7..9 its coordinates, 10 and 11 the terms of a formula."""
N_SLOTS = 12


def gamma_bounds(alpha: Tensor, beta: Tensor, decimals: int) -> tuple[Tensor, Tensor]:
    """The least and the largest gamma, of `decimals` decimals, that make a cell with alpha and
    beta: whole numbers of 10^-decimals degrees, as all arguments."""
    unit = 10**decimals
    a, b = torch.deg2rad(alpha.double() / unit), torch.deg2rad(beta.double() / unit)
    reach = ((a.sin() * b.sin()) ** 2 - LEAST_FLATNESS**2).clamp_min(0).sqrt()
    middle = a.cos() * b.cos()
    low = torch.rad2deg((middle + reach).clamp(max=1).acos()).clamp(min=SMALLEST_ANGLE)
    high = torch.rad2deg((middle - reach).clamp(min=-1).acos()).clamp(max=LARGEST_ANGLE)
    return (low * unit).ceil().to(torch.int64), (high * unit).floor().to(torch.int64)


@final
class TextGrammar(Grammar):
    """What may follow; see `Grammar`.

    Args:
        header: forced text before the first slot.
        start: the first slot: TERM (a formula is drawn), 0 (the cell) or ELEMENT.
        after_formula: forced text after a formula that is drawn.
        remaining: atomic number -> atoms still to be placed; None: any, up to `room` of them.
        n_placed: atoms that the header holds.
    """

    def __init__(
        self,
        form: Format,
        n_rows: int,
        header: list[int],
        start: int,
        after_formula: list[int],
        remaining: Mapping[int, int] | None,
        n_placed: int,
        room: int,
        device: torch.device | str,
    ) -> None:
        self._tables = _Tables(form, header, after_formula, device)
        self._numbers = WrittenNumbers(n_rows, device)
        self._exact = remaining is not None or start == TERM
        self._decimals = form.decimals[1]

        def rows(value: int) -> Tensor:
            return torch.full((n_rows,), value, dtype=torch.int64, device=device)

        self._slot = rows(start)
        self._at, self._until = rows(self._tables.header[0]), rows(self._tables.header[1])
        self._first, self._term = rows(-1), rows(-1)  # of a spelled element; of a formula
        self._alpha, self._beta = rows(0), rows(0)
        self._room, self._placed = rows(room), rows(n_placed)
        counts = torch.zeros(len(form.elements), dtype=torch.int64)
        for number, count in (remaining or {}).items():
            counts[self._tables.index[number]] = count
        self._remaining = counts.to(device).repeat(n_rows, 1)  # (R, E)
        self._finished = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self._begin_numbers(torch.ones_like(self._finished))
        self._present = self._kinds()
        n_new = sum(remaining.values()) if remaining is not None else room
        self.max_length = 2 + self._tables.longest(len(header), start, n_new)

    def allowed(self) -> Tensor:
        tables, slot = self._tables, self._slot
        literal = self._at < self._until
        numbers, elements, formulas = self._present
        mask = tables.one_hot[tables.bank[self._at.clamp(max=len(tables.bank) - 1)]]
        if numbers:
            mask = torch.where((literal | ~_is_number(slot))[:, None], mask, self._number_mask())
        if elements:
            mask = torch.where((literal | (slot != ELEMENT))[:, None], mask, self._element_mask())
        if formulas:
            mask = torch.where((literal | (slot < TERM))[:, None], mask, self._formula_mask())
        return torch.where(self._finished[:, None], tables.one_hot[PAD], mask)

    def advance(self, tokens: Tensor) -> None:
        literal, slot = self._at < self._until, self._slot
        free = ~literal & ~self._finished
        numbers, elements, formulas = self._present
        self._at = self._at + literal
        if numbers:
            self._read_number(free & _is_number(slot), tokens)
        if elements:
            self._finished = self._finished | (free & (tokens == EOS))
            self._read_element(free & (slot == ELEMENT) & (tokens != EOS), tokens)
        if formulas:
            self._read_formula(free & (slot >= TERM), tokens)
        self._present = self._kinds()

    def _kinds(self) -> tuple[bool, bool, bool]:
        """Whether any row is at a number, an element, a formula: most of the text is neither, and
        one synchronisation a step costs less than a hundred idle kernels."""
        free, slot = (self._at >= self._until) & ~self._finished, self._slot
        kinds = torch.stack([_is_number(slot), slot == ELEMENT, slot >= TERM])  # (3, R)
        numbers, elements, formulas = (kinds & free).any(1).tolist()
        return numbers, elements, formulas

    def _number_mask(self) -> Tensor:
        """(R, V): digits, the point, or the end of a number without decimals."""
        tables, numbers = self._tables, self._numbers
        mask = numbers.digits().to(tables.digit_hot.dtype) @ tables.digit_hot > 0
        mask |= numbers.point()[:, None] & tables.one_hot[tables.point]
        ending = tables.one_hot[tables.bank[tables.starts[self._slot]]]
        return mask | (numbers.may_end()[:, None] & ending)

    def _element_mask(self) -> Tensor:
        """(R, V): the first letter (token) of an element that remains or the end; or the second
        letter or, where one letter is an element, what follows it."""
        tables = self._tables
        left = self._left()
        first = left.to(tables.first_hot.dtype) @ tables.first_hot > 0
        over = ~left.any(1) if self._exact else self._placed > 0
        first |= over[:, None] & tables.one_hot[EOS]
        spelled = left & (tables.first == self._first[:, None])  # (R, E)
        second = spelled.to(tables.second_hot.dtype) @ tables.second_hot > 0
        return torch.where((self._first < 0)[:, None], first, second)

    def _formula_mask(self) -> Tensor:
        """(R, V): a later element or the end of the line, or the digits of a count."""
        tables = self._tables
        counting = self._slot == COUNT
        room = self._room - torch.where(counting, self._numbers.value, 0)
        later = (tables.rank > self._rank()[:, None]) & (room > 0)[:, None]  # (R, E)
        nexts = later.to(tables.first_hot.dtype) @ tables.first_hot > 0
        nexts |= (self._term >= 0)[:, None] & tables.one_hot[tables.newline]
        digits = self._numbers.digits().to(tables.digit_hot.dtype) @ tables.digit_hot > 0
        ended = self._numbers.may_end()[:, None] & nexts
        return torch.where(counting[:, None], digits | ended, nexts)

    def _left(self) -> Tensor:
        """(R, E) bool: elements that may come."""
        if self._exact:
            return self._remaining > 0
        return (self._room > 0)[:, None].expand_as(self._remaining)

    def _rank(self) -> Tensor:
        """(R,): place in formulas of the term so far, -1 before the first."""
        return torch.where(self._term < 0, -1, self._tables.rank[self._term.clamp_min(0)])

    def _read_number(self, rows: Tensor, tokens: Tensor) -> None:
        tables, numbers = self._tables, self._numbers
        digit = tables.digit_of[tokens]
        ended = rows & (digit < 0) & (tokens != tables.point)  # by the first token of what follows
        done = numbers.read(rows & ~ended, digit) | ended
        self._alpha = torch.where(done & (self._slot == ALPHA), numbers.value, self._alpha)
        self._beta = torch.where(done & (self._slot == BETA), numbers.value, self._beta)
        self._leave(done, ended)

    def _read_element(self, rows: Tensor, tokens: Tensor) -> None:
        tables = self._tables
        spelled = self._first >= 0
        second = tables.spelled[self._first.clamp_min(0), tokens]  # -1: only the first so far
        done = rows & spelled
        self._place(done, second)
        self._first = torch.where(rows & ~spelled, tokens, self._first.masked_fill(done, -1))
        self._leave(done, done & (tokens == tables.bank[tables.starts[ELEMENT]]))

    def _place(self, rows: Tensor, element: Tensor) -> None:
        """An atom of the element (index into the format's) on the rows."""
        taken = -rows.to(torch.int64)
        self._remaining.scatter_add_(1, element.clamp_min(0)[:, None], taken[:, None])
        self._room, self._placed = self._room + taken, self._placed - taken

    def _read_formula(self, rows: Tensor, tokens: Tensor) -> None:
        tables = self._tables
        digit = tables.digit_of[tokens]
        self._numbers.read(rows & (digit >= 0), digit)
        counted = rows & (digit < 0) & (self._slot == COUNT)
        count = torch.where(counted, self._numbers.value, 0)
        self._remaining.scatter_add_(1, self._term.clamp_min(0)[:, None], count[:, None])
        self._room = self._room - count
        over = rows & (tokens == tables.newline)
        named = rows & (digit < 0) & ~over
        self._term = torch.where(named, tables.element_of[tokens], self._term)
        self._slot = self._slot.masked_fill(named, COUNT)
        self._begin_numbers(named)
        self._slot = self._slot.masked_fill(over, TERM)
        self._leave(over, torch.zeros_like(over))

    def _leave(self, rows: Tensor, begun: Tensor) -> None:
        """Go on to the text after the slot, whose first token was read where `begun`."""
        tables, slot = self._tables, self._slot
        self._at = torch.where(rows, tables.starts[slot] + begun, self._at)
        self._until = torch.where(rows, tables.stops[slot], self._until)
        self._slot = torch.where(rows, tables.nexts[slot], slot)
        self._begin_numbers(rows)

    def _begin_numbers(self, rows: Tensor) -> None:
        tables, slot = self._tables, self._slot
        low, high = gamma_bounds(self._alpha, self._beta, self._decimals)
        is_gamma, is_count = slot == GAMMA, slot == COUNT
        low = torch.where(is_gamma, low, tables.low[slot])
        high = torch.where(is_gamma, high, torch.where(is_count, self._room, tables.high[slot]))
        self._numbers.begin(rows, tables.after[slot], tables.decimals[slot], low, high)


def _is_number(slot: Tensor) -> Tensor:
    """Of the cell or a coordinate."""
    return (slot < TERM) & (slot != ELEMENT)


class _Tables:
    """The transition tables of a format; V words, E elements, S slots.

    Attributes:
        bank: every literal text, one after the other; `header` its first (start, stop).
        starts, stops, nexts: (S,) the text after a slot and the slot after that.
        after, decimals, low, high: (S,) of the numbers.
        first, rank: (E,) first token; place in formulas.
        spelled: (V, V) the element of a first token and the next one, -1: none.
        one_hot (V, V), digit_hot (10, V), first_hot (E, V), second_hot (E, V): sets of tokens.
    """

    def __init__(
        self,
        form: Format,
        header: list[int],
        after_formula: list[int],
        device: torch.device | str,
    ) -> None:
        self._words = Words(form.vocabulary)
        self._form, self._device = form, device
        n_words = len(form.vocabulary)
        self.one_hot = torch.eye(n_words, dtype=torch.bool, device=device)
        self.point, self.newline = self._words.tokens(".\n")
        self._set_slots(header, after_formula)
        self._set_elements(n_words)
        digits = self._words.tokens("0123456789")
        self.digit_of = torch.full((n_words,), -1, device=device)
        self.digit_of[digits] = torch.arange(10, device=device)
        self.digit_hot = self.one_hot[digits].to(torch.float32)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _set_slots(self, header: list[int], after_formula: list[int]) -> None:
        form = self._form
        texts = [*form.between[1:], form.after_element + "0.", " 0.", " 0.", "\n"]
        literals = [header, *map(self._words.tokens, texts), after_formula, []]
        starts = [0]
        for literal in literals:
            starts.append(starts[-1] + len(literal))
        self.bank = self._tensor([token for literal in literals for token in literal] + [PAD])
        self.header = (0, len(header))
        self.starts, self.stops = self._tensor(starts[1:-1]), self._tensor(starts[2:])
        self.literals = [len(literal) for literal in literals[1:]]
        self.nexts = self._tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, ELEMENT, 0, COUNT])
        length, angle, place = form.decimals
        self.decimals = self._tensor([length] * 3 + [angle] * 3 + [0] + [place] * 3 + [0, 0])
        self.after = self._tensor([-1] * 7 + [0] * 3 + [-1] * 2)
        angles = (SMALLEST_ANGLE * 10**angle, LARGEST_ANGLE * 10**angle)
        longest = (LONGEST + 1) * 10**length - 1
        self.low = self._tensor([10**length] * 3 + [angles[0]] * 3 + [0] * 4 + [0, 1])
        self.high = self._tensor(
            [longest] * 3 + [angles[1]] * 3 + [0] + [10**place - 1] * 3 + [0, 0]
        )

    def _set_elements(self, n_words: int) -> None:
        symbols = self._form.elements
        spelled = [self._words.tokens(symbol) for symbol in symbols]
        numbers = [NUMBERS[symbol] for symbol in symbols]
        self.index = {number: index for index, number in enumerate(numbers)}
        order = sorted(numbers, key=formula_order)
        self.rank = self._tensor([order.index(number) for number in numbers])
        self.first = self._tensor([tokens[0] for tokens in spelled])
        follows = self._words.tokens(self._form.after_element)[0]
        seconds = self._tensor([tokens[1] if len(tokens) > 1 else follows for tokens in spelled])
        self.spelled = torch.full((n_words, n_words), -1, device=self._device)
        indices = torch.arange(len(symbols), device=self._device)
        self.spelled[self.first, seconds] = indices
        self.element_of = torch.full((n_words,), -1, device=self._device)
        self.element_of[self.first] = indices  # used where elements are single tokens
        self.first_hot = self.one_hot[self.first].to(torch.float32)
        self.second_hot = self.one_hot[seconds].to(torch.float32)

    def longest(self, n_header: int, start: int, n_atoms: int) -> int:
        """Most tokens between bos and eos."""
        length, angle, place = self._form.decimals
        numbers = 3 * (4 + length) + 3 * (4 + angle)
        symbol = max(len(self._words.tokens(symbol)) for symbol in self._form.elements)
        atom = symbol + 3 * place + sum(self.literals[ELEMENT:TERM])
        cell = 0 if start == ELEMENT else numbers + sum(self.literals[:ELEMENT])
        formula = (
            0 if start != TERM else n_atoms * (1 + len(str(n_atoms))) + self.literals[TERM] + 1
        )
        return n_header + formula + cell + n_atoms * atom
