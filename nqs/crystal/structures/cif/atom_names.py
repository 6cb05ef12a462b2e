"""Which element a file means: type symbols (Fe, FE, Fe2.5+, D), labels (Fe1, FE1), formulas."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from nqs.crystal.structures.elements import NUMBERS, symbol
from nqs.crystal.structures.structure import CrystalError
from nqs.errors import shown

DEUTERIUM = "deuterium read as H"
CAPITALS = "labels in capitals read as the elements of two letters, such as FE1"
MOST_READINGS, LONGEST_RUN = 64, 12
"""Ways to cut a formula in capitals that are looked at, and letters of it without a number."""

_ELEMENTS = NUMBERS | {"D": 1}
_TYPE = re.compile(r"(\d{0,3})([A-Za-z]{1,2})(?:\d*|\d+(?:\.\d+)?[+-]|[+-](?:\d+(?:\.\d+)?)?)")
_TERM = re.compile(r"([A-Z][a-z]?)(\d{0,6}(?:\.\d{1,6})?)\s*")
_LOOSE_TERM = re.compile(r"([A-Za-z]+)(\d{0,6}(?:\.\d{1,6})?)\s*")
_CHARGE = re.compile(r"\s(?:\d+[+-]|[+-]\d*)$")

Formula = dict[int, float]
"""Atomic number -> number of atoms, as stated: of the cell or of a formula unit."""


@dataclass(frozen=True)
class Named:
    """An element (atomic number) and what had to be decided to know it ('': nothing)."""

    number: int
    decision: str = ""


def of_type(text: str) -> Named | None:
    """The element of a type symbol, in any case, with a charge or an isotope's mass; None: none."""
    match = _TYPE.fullmatch(text)
    if match is None or match[2].capitalize() not in _ELEMENTS:
        return None
    name = match[2].capitalize()
    deuterium = name == "D" or (name == "H" and match[1] == "2")
    return Named(_ELEMENTS[name], DEUTERIUM if deuterium else "")


def readings(label: str, wanted: Collection[int]) -> list[Named]:
    """The elements that a label may mean, the likeliest first.

    Fe1 and FeA are iron alone. FE1 is iron or fluorine, D1 deuterium. Words (Wat1, Vac) are none,
    and where the second letter makes no element (Ow1) the first one counts only if it is `wanted`.
    """
    match = re.match("[A-Za-z]+", label)
    run = match[0] if match else ""
    first, pair = run[:1].upper(), run[:2].capitalize()
    as_written = len(run) > 1 and run[0].isupper() and run[1].islower()
    if as_written and (run[2:3].islower() or pair not in _ELEMENTS):
        is_wanted = len(run) == 2 and _ELEMENTS.get(first) in wanted
        return [_named(first)] if is_wanted else []
    names = [pair] if len(run) > 1 and pair in _ELEMENTS else []
    if not as_written and first in _ELEMENTS:
        names.append(first)
    return [_named(name) for name in names]


def _named(name: str) -> Named:
    return Named(_ELEMENTS[name], DEUTERIUM if name == "D" else "")


def of_labels(labels: list[str], wanted: Collection[int]) -> list[Named]:
    """The elements of atoms that have labels alone.

    Args:
        wanted: the elements that the file's formula or list of atom types names; none: not said.

    Raises CrystalError for a label that names no (wanted) element, and for one that may mean two
    where nothing decides.
    """
    possible = []
    for label in labels:
        every = readings(label, wanted)
        fitting = [name for name in every if not wanted or name.number in wanted]
        if not fitting:
            raise CrystalError(f"{_of(label, every)}; give _atom_site_type_symbol")
        possible.append(fitting)
    certain = {names[0].number for names in possible if len(names) == 1}
    chosen = []
    for label, names in zip(labels, possible, strict=True):
        undecided = len(names) > 1 and not wanted
        if undecided and names[1].number in certain:
            one, other = (symbol(name.number) for name in names)
            raise CrystalError(
                f"atom {shown(label)} may be {one} or {other}; give _atom_site_type_symbol or "
                f"_chemical_formula_sum"
            )
        chosen.append(Named(names[0].number, CAPITALS) if undecided else names[0])
    return chosen


def _of(label: str, every: list[Named]) -> str:
    if not label:
        return "an atom is unnamed"
    if not every:
        return f"atom {shown(label)} is not an element"
    names = " or ".join(symbol(name.number) for name in every)
    return f"atom {shown(label)} is {names}, which the stated formula has not"


def formulas(text: str) -> list[Formula]:
    """What a formula may mean, the likeliest first: 'Na4 Cl4', 'NaCl', 'Na1.0 Cl1.0', 'D2 O', and
    in capitals 'NA CL', 'SIO2' (which is also S I O2).

    Raises CrystalError for text that is no formula.
    """
    content = _CHARGE.sub("", text.strip().replace(",", " ")) if len(text) <= 2000 else ""
    found: list[Formula] = []
    for formula in (_cut(content, _TERM), *_in_capitals(content)):
        if formula and formula not in found:
            found.append(formula)
    if not found:
        raise CrystalError(f"formula {shown(text)}: symbols of elements and numbers are needed")
    return found


def _cut(text: str, term: re.Pattern[str]) -> Formula | None:
    """A formula made of the terms alone, each the symbol of an element and a number."""
    formula: Formula = {}
    at = 0
    while at < len(text):
        match = term.match(text, at)
        if match is None or match[1].capitalize() not in _ELEMENTS:
            return None
        number, count = _ELEMENTS[match[1].capitalize()], float(match[2] or 1)
        formula[number] = formula.get(number, 0.0) + count
        at = match.end()
    return formula if formula and min(formula.values()) > 0 else None


def _in_capitals(text: str) -> Iterator[Formula]:
    """The readings of a formula whose symbols are not written as usual."""
    spaced = _cut(text, _LOOSE_TERM)
    if spaced:
        yield spaced
    if text.upper() != text:
        return
    runs = re.findall(r"([A-Z]*)([^A-Z]*)", text)
    if max(len(run) for run, _ in runs) > LONGEST_RUN:
        return
    cuts = [""]
    for run, rest in runs:
        every = (f"{cut}{part}{rest}" for cut in cuts for part in _symbols(run))
        cuts = list(itertools.islice(every, MOST_READINGS))
    for cut in cuts:
        formula = _cut(cut, _TERM)
        if formula:
            yield formula


def _symbols(run: str) -> Iterator[str]:
    """Letters cut into symbols of one or two: CAO into CaO, and into C, Ao where that existed."""
    if not run:
        yield ""
        return
    for length in (2, 1):
        name = run[:length].capitalize()
        if len(name) == length and name in _ELEMENTS:
            for rest in _symbols(run[length:]):
                yield name + rest
