"""The conditions and the formula, as the tokenisers with fields write them before the body:

    [group] [formation energy] [hull]  element count  element count ...

The formula comes first, so that one model draws p(formula) p(the rest | formula) and p(the rest | a
formula that is given), both learnt from every crystal.
"""

from __future__ import annotations

from collections.abc import Mapping

from nqs.crystal.structures.structure import CrystalError, formula_of
from nqs.crystal.tokens.coordinate_fields import ENERGIES, HULLS, Fields
from nqs.crystal.tokens.tokeniser import Conditions


def condition_tokens(fields: Fields, conditions: Conditions | None) -> list[int]:
    """The conditions but for the composition."""
    given = conditions or Conditions()
    tokens = []
    if given.space_group is not None:
        tokens.append(fields.group[given.space_group - 1])
    if given.formation_energy is not None:
        tokens.append(fields.energy[int(ENERGIES.index(given.formation_energy))])
    if given.energy_above_hull is not None:
        tokens.append(fields.hull[int(HULLS.index(given.energy_above_hull))])
    return tokens


def formula_tokens(fields: Fields, composition: Mapping[int, int]) -> list[int]:
    """Raises CrystalError for more atoms than are written."""
    n_atoms, most = sum(composition.values()), len(fields.count)
    if n_atoms > most:
        raise CrystalError(f"{n_atoms} atoms: at most {most} are written")
    terms = Conditions(composition).formula
    pairs = [(fields.element[number - 1], fields.count[count - 1]) for number, count in terms]
    return [token for pair in pairs for token in pair]


def read_conditions(fields: Fields, tokens: list[int]) -> tuple[Conditions, list[int]]:
    """The conditions, the composition among them, and the tokens after them."""
    rest = list(reversed(tokens))
    group = energy = hull = None
    if rest and rest[-1] in fields.group:
        group = rest.pop() - fields.group.start + 1
    if rest and rest[-1] in fields.energy:
        energy = float(ENERGIES.values[rest.pop() - fields.energy.start])
    if rest and rest[-1] in fields.hull:
        hull = float(HULLS.values[rest.pop() - fields.hull.start])
    formula: list[tuple[int, int]] = []
    while len(rest) > 1 and rest[-1] in fields.element and rest[-2] in fields.count:
        number = rest.pop() - fields.element.start + 1
        formula.append((number, rest.pop() - fields.count.start + 1))
    if not formula:
        raise CrystalError("a crystal's formula comes before its cell: there is none")
    conditions = Conditions(dict(formula), group, energy, hull)
    if tuple(formula) != conditions.formula:
        raise CrystalError(f"formula {formula_of(dict(formula))}: elements once and in order")
    return conditions, rest[::-1]


def shown_token(fields: Fields, token: int) -> str:
    """What it stands for, for messages."""
    known = 0 <= token < len(fields.vocabulary)
    return fields.vocabulary[token] if known else f"token {token}"
