"""The tokenisers that write a crystal as text: `character`, `cif` and `text`, by their `Format`.

The cell and the order of atoms are those of the structure. Rounding is that of the format's digits;
what is decoded is written again in the same tokens, or it is no crystal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from nqs.crystal.structures.elements import HEAVIEST, NUMBERS, SYMBOLS, symbol
from nqs.crystal.structures.structure import CrystalError, Floats, Structure
from nqs.crystal.tokens.formats import (
    CHARACTER,
    CIF,
    LARGEST_ANGLE,
    LONGEST,
    SMALLEST_ANGLE,
    SPECIAL,
    TEXT,
    Format,
    Words,
)
from nqs.crystal.tokens.text_grammar import ELEMENT, TERM, TextGrammar, gamma_bounds
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, check_agreement, remaining_atoms
from nqs.errors import require, shown

_ELEMENT = r"[A-Z][a-z]?"


class TextTokeniser(Tokeniser):
    """Text in the words of a format.

    Args:
        max_atoms: most atoms in a cell, 1..1000.
    """

    form: ClassVar[Format]
    """How to write."""
    pad, bos, eos, mask = range(len(SPECIAL))

    def __init__(self, max_atoms: int = 80) -> None:
        require(1 <= max_atoms <= 1000, "max_atoms", max_atoms, "must be within 1..1000")
        form, self.max_atoms = self.form, max_atoms
        self.vocabulary = form.vocabulary
        self._words = Words(form.vocabulary)
        self._pattern = _pattern(form)
        every = {number: 1 for number in range(1, min(max_atoms, HEAVIEST) + 1)}
        head = Conditions(every, 230, -1.0 if form.energy else None, 1.0 if form.hull else None)
        longest = len(self._words.tokens(self._head_text(head))) + 3 * len(every)
        body = TextGrammar(form, 1, [], 0, [], None, 0, max_atoms, "cpu")
        self.max_length = longest + body.max_length + len(self._words.tokens(form.between[0])) + 4

    @property
    def n_bins(self) -> int:
        return int(10 ** self.form.decimals[2])

    def encode(self, structure: Structure, conditions: Conditions | None = None) -> list[int]:
        check_agreement(structure, conditions)
        text = self._head_text(self._headed(conditions, structure)) + self._body_text(structure)
        return [self.bos, *self._words.tokens(text), self.eos]

    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        content = self.content(tokens)
        if any(not len(SPECIAL) <= token < len(self.vocabulary) for token in content):
            raise CrystalError(f"the {self.name} tokens of a crystal hold a special or unknown one")
        text = self._words.text(content)
        match = self._pattern.fullmatch(text)
        if match is None:
            raise CrystalError(f"{shown(text)!r} is no crystal as {self.name} writes it")
        structure, conditions = self._read_body(match), self._read_head(match)
        if self.encode(structure, conditions) != [self.bos, *content, self.eos]:
            raise CrystalError(f"{shown(text)!r} is not as {self.name} would write that crystal")
        return structure, conditions

    def grammar(
        self,
        n_rows: int,
        conditions: Conditions | None = None,
        *,
        partial: Structure | None = None,
        device: torch.device | str = "cpu",
    ) -> TextGrammar:
        form, given = self.form, conditions or Conditions()
        remaining = remaining_atoms(conditions, partial, self.max_atoms)
        if form.formula_always and remaining is None:
            if partial is not None:
                raise CrystalError(
                    f"the {self.name} tokeniser writes the formula before the atoms: give the "
                    f"composition with a partial structure"
                )
            line, after = form.formula.split("{}")[0], self._head_text(given) + form.between[0]
            start, header = TERM, line
        else:
            after = ""
            start = 0 if partial is None else ELEMENT
            body = form.between[0] if partial is None else self._body_text(partial)
            header = self._head_text(given) + body
        n_placed = 0 if partial is None else partial.n_atoms
        tokens = self._words.tokens
        return TextGrammar(
            form,
            n_rows,
            tokens(header),
            start,
            tokens(after),
            remaining,
            n_placed,
            self.max_atoms - n_placed,
            device,
        )

    def translated(
        self, tokens: NDArray[np.int64], shift: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        """A coordinate is '0.' after a space or a new line, as nothing else is."""
        zero, point, space, newline = self._words.tokens("0. \n")
        n_digits = self.form.decimals[2]
        starts = np.zeros(tokens.shape, dtype=bool)
        before = (tokens[..., :-2] == space) | (tokens[..., :-2] == newline)
        starts[..., 1:-1] = before & (tokens[..., 1:-1] == zero) & (tokens[..., 2:] == point)
        places = np.nonzero(starts)
        axis = ((np.cumsum(starts, axis=-1) - 1) % 3)[places]
        moved = tokens.copy()
        rows, columns = places[:-1], places[-1]
        digits = [tokens[(*rows, columns + 2 + digit)] - zero for digit in range(n_digits)]
        value = sum(d * 10 ** (n_digits - 1 - i) for i, d in enumerate(digits))
        value = (value + np.asarray(shift)[axis]) % self.n_bins
        for digit in range(n_digits):
            moved[(*rows, columns + 2 + digit)] = zero + value // 10 ** (n_digits - 1 - digit) % 10
        return moved

    def element_tokens(self, element: int) -> list[int]:
        return self._words.tokens(symbol(element))

    def element_spans(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        words = [self.vocabulary[token] for token in tokens]
        if any(word in NUMBERS and len(word) > 1 for word in self.form.words):  # whole elements
            return [(i, i + 1) for i, word in enumerate(words) if word in NUMBERS]
        text = "".join(word if len(word) == 1 else "\0" for word in words)
        return [match.span() for match in re.finditer(_ELEMENT, text)]

    def _headed(self, conditions: Conditions | None, structure: Structure) -> Conditions:
        """The conditions that are written: with the formula where it always is."""
        given = conditions or Conditions()
        if not self.form.formula_always:
            return given
        return Conditions(
            structure.composition,
            given.space_group,
            given.formation_energy,
            given.energy_above_hull,
        )

    def _head_text(self, given: Conditions) -> str:
        """Raises CrystalError for conditions that the format has no words for."""
        form = self.form
        for number, _ in given.formula:
            self._check_element(number)
        formula = form.joint.join(f"{symbol(number)}{count}" for number, count in given.formula)
        group = None if given.space_group is None else form.groups[given.space_group - 1]
        lines = [
            _line(form.group, group),
            _line(form.energy, _rounded(given.formation_energy, 1)),
            _line(form.hull, _rounded(given.energy_above_hull, 2)),
        ]
        lines.insert(0 if form.formula_always else 3, _line(form.formula, formula or None))
        if None in lines:
            raise CrystalError(f"the {self.name} tokeniser has no word for energies")
        return "".join(line for line in lines if line)

    def _check_element(self, number: int) -> None:
        if symbol(number) not in self.form.elements:
            raise CrystalError(f"the {self.name} tokeniser has no word for {symbol(number)}")

    def _body_text(self, structure: Structure) -> str:
        """Raises CrystalError for what is out of range."""
        form = self.form
        length, angle, place = form.decimals
        if structure.n_atoms > self.max_atoms:
            raise CrystalError(f"{structure.n_atoms} atoms: at most {self.max_atoms} are written")
        for number in set(structure.numbers.tolist()):
            self._check_element(number)
        lengths = [f"{value:.{length}f}" for value in structure.lengths]
        angles = [f"{value:.{angle}f}" for value in structure.angles]
        self._check_cell(lengths, angles)
        cell = zip(form.between, (*lengths, *angles, ""), strict=True)
        rounded = np.rint(structure.positions * self.n_bins).astype(np.int64) % self.n_bins
        atoms = [
            f"{SYMBOLS[number - 1]}{form.after_element}0.{x:0{place}d} 0.{y:0{place}d} "
            f"0.{z:0{place}d}\n"
            for number, (x, y, z) in zip(structure.numbers.tolist(), rounded.tolist(), strict=True)
        ]
        return "".join([before + value for before, value in cell] + atoms)

    def _check_cell(self, lengths: list[str], angles: list[str]) -> None:
        """Raises CrystalError unless the grammar allows these."""
        for text in lengths:
            if not 1 <= float(text) < LONGEST + 1:
                raise CrystalError(f"cell length {text}: must be within 1..{LONGEST + 1} Angstrom")
        for text in angles:
            if not SMALLEST_ANGLE <= float(text) <= LARGEST_ANGLE:
                raise CrystalError(
                    f"cell angle {text}: must be within {SMALLEST_ANGLE}..{LARGEST_ANGLE} degrees"
                )
        decimals = self.form.decimals[1]
        alpha, beta, gamma = (torch.tensor(round(float(t) * 10**decimals)) for t in angles)
        low, high = gamma_bounds(alpha, beta, decimals)
        if not low <= gamma <= high:
            raise CrystalError(f"cell angles {', '.join(angles)} are too flat to be written")

    def _read_head(self, match: re.Match[str]) -> Conditions:
        form = self.form
        group, formula = match["group"], match["formula"]
        counts = re.findall(rf"({_ELEMENT})(\d+)", formula or "")
        if group is not None and group not in form.groups:
            raise CrystalError(f"{shown(group)} is no space group")
        values = [
            match[name] if name in match.re.groupindex else None for name in ("energy", "hull")
        ]
        energy, hull = (None if value is None else float(value) for value in values)
        composition = {_number(element): int(count) for element, count in counts}
        return Conditions(
            composition or None,
            None if group is None else form.groups.index(group) + 1,
            energy,
            hull,
        )

    def _read_body(self, match: re.Match[str]) -> Structure:
        cell = np.array([float(match[f"cell{index}"]) for index in range(6)])
        atoms = re.findall(rf"({_ELEMENT})\s(\S+) (\S+) (\S+)\n", match["atoms"])
        positions: Floats = np.array([[float(value) for value in atom[1:]] for atom in atoms])
        return Structure(
            cell[:3], cell[3:], np.array([_number(atom[0]) for atom in atoms]), positions
        )


@final
class CharacterTokeniser(TextTokeniser, kind="character"):
    """Every character is a token."""

    form = CHARACTER


@final
class CifTokeniser(TextTokeniser, kind="cif"):
    """A CIF in the words of CrystaLLM."""

    form = CIF


@final
class PlainTextTokeniser(TextTokeniser, kind="text"):
    """Plain text whose elements are tokens."""

    form = TEXT


def _number(element: str) -> int:
    if element not in NUMBERS:
        raise CrystalError(f"{element}: not an element")
    return NUMBERS[element]


def _line(template: str | None, value: str | None) -> str | None:
    """A line of the header; '' where nothing is asked, None where it cannot be written."""
    if value is None:
        return ""
    return None if template is None else template.format(value)


def _rounded(value: float | None, decimals: int) -> str | None:
    """With its sign: '0.' after a space would be a coordinate."""
    return None if value is None else f"{round(value, decimals) + 0.0:+.{decimals}f}"


def _pattern(form: Format) -> re.Pattern[str]:
    """What every written crystal matches; groups for its conditions, cell and atoms."""
    lines = []
    for name, template, value in (
        ("group", form.group, r"\S{1,20}"),
        ("energy", form.energy, r"[+-]\d{1,6}\.\d"),
        ("hull", form.hull, r"\+\d{1,6}\.\d\d"),
    ):
        if template is not None:
            before, after = map(re.escape, template.split("{}"))
            lines.append(f"(?:{before}(?P<{name}>{value}){after})?")
    before, after = map(re.escape, form.formula.split("{}"))
    formula = f"(?:{before}(?P<formula>(?:{_ELEMENT}\\d{{1,4}} ?){{1,118}}){after})"
    lines.insert(0 if form.formula_always else 3, formula + ("" if form.formula_always else "?"))
    points = [rf"\.\d{{{digits}}}" if digits else "" for digits in form.decimals]
    numbers = [rf"(?P<cell{i}>\d{{1,3}}{points[i // 3]})" for i in range(6)]
    cell = zip(map(re.escape, form.between), (*numbers, ""), strict=True)
    place = rf"0{points[2]}"
    atom = rf"{_ELEMENT}{form.after_element}{place} {place} {place}\n"
    return re.compile(
        "".join(lines) + "".join(a + b for a, b in cell) + rf"(?P<atoms>(?:{atom}){{1,1000}})"
    )
