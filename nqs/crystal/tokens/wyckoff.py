"""The Wyckoff tokeniser: a crystal by its space group and what that leaves free; about 28 tokens.

    bos [group] [formation energy] [hull]  element count  element count ...
        group  free lattice numbers  element site free ...  element site free ...  eos

A site is the letter of a Wyckoff position of the group in spglib's standard setting (monoclinic
axis b, rhombohedral groups in hexagonal axes, origin choice 1), its free coordinates are 0 to 3
numbers
(nqs.crystal.structures.wyckoff_positions). The formula, of the primitive cell, comes before the
group, so that p(group | formula) is learnt too; a group that is given stands first and again after
the formula.

Rounding is that of `coordinate_fields`, of the conventional cell: lengths to 1 %, angles to whole
degrees, free coordinates to 1/120, or to the nearest one that is not special where that one is
(usually the next). Coordinates without freedom are exact, so is the symmetry. Of the equivalent
descriptions the canonical one is written (`wyckoff_description`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from nqs.crystal.structures.elements import HEAVIEST, formula_order
from nqs.crystal.structures.structure import CrystalError, Structure, formula_of
from nqs.crystal.structures.wyckoff_positions import LETTERS
from nqs.crystal.tokens.condition_fields import (
    condition_tokens,
    formula_tokens,
    read_conditions,
    shown_token,
)
from nqs.crystal.tokens.coordinate_fields import BOS, EOS, MASK, PAD, Fields
from nqs.crystal.tokens.reachable_formulas import formulas_of
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, check_agreement, remaining_atoms
from nqs.crystal.tokens.wyckoff_description import (
    FREE_ANGLES,
    FREE_LENGTHS,
    Description,
    Orbit,
    describe,
    described_without_symmetry,
    equivalent,
    equivalents,
    structure_of,
    table_of,
)
from nqs.crystal.tokens.wyckoff_grammar import ATOM, CELL, WyckoffGrammar, description_tokens
from nqs.errors import require

REMEMBERED = 64
"""Structures whose description is kept: each is written several times in a row."""


@final
class WyckoffTokeniser(Tokeniser, kind="wyckoff"):
    """Space group, free lattice numbers and orbits.

    Args:
        max_atoms: most atoms in a primitive cell, 1..1000.

    Attributes:
        fields: which tokens are what.
    """

    pad, bos, eos, mask = PAD, BOS, EOS, MASK
    canonical = True

    def __init__(self, max_atoms: int = 80) -> None:
        require(1 <= max_atoms <= 1000, "max_atoms", max_atoms, "must be within 1..1000")
        self.max_atoms = max_atoms
        self.fields = Fields(max_atoms, LETTERS)
        self.vocabulary = self.fields.vocabulary
        n_conditions = 3 + 2 * min(max_atoms, HEAVIEST)
        self.max_length = 2 + n_conditions + 1 + CELL + ATOM * max_atoms + 3  # 3: of infilling

    @property
    def n_bins(self) -> int:
        return 1

    def encode(self, structure: Structure, conditions: Conditions | None = None) -> list[int]:
        check_agreement(structure, conditions)
        formula = formula_tokens(self.fields, structure.composition)
        description = _described(structure)
        _check_group(description.group, conditions)
        head = condition_tokens(self.fields, conditions)
        return [BOS, *head, *formula, *description_tokens(self.fields, description), EOS]

    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        """See Tokeniser.decode; the composition is always among the conditions, the group if it
        was given."""
        conditions, _, description = self._read(tokens)
        structure = structure_of(description)
        check_agreement(structure, conditions)
        return structure, conditions

    def grammar(
        self,
        n_rows: int,
        conditions: Conditions | None = None,
        *,
        partial: Structure | None = None,
        device: torch.device | str = "cpu",
    ) -> WyckoffGrammar:
        """See Tokeniser.grammar. A partial structure keeps its symmetry: what is added to it are
        whole orbits of its space group, or single atoms where the group 1 is asked for."""
        remaining = remaining_atoms(conditions, partial, self.max_atoms)
        given = conditions or Conditions()
        group, start = given.space_group, None
        if partial is not None:
            start = described_without_symmetry(partial) if group == 1 else describe(partial)
            _check_group(start.group, conditions)
            group = start.group
        if remaining is not None and group is not None:
            used = [] if start is None else [orbit.position for orbit in start.orbits]
            if not formulas_of(group).reaches(remaining.values(), used):
                raise CrystalError(
                    f"no Wyckoff positions of space group {group} together hold "
                    f"{formula_of({n: count for n, count in remaining.items() if count})}"
                    f"{'' if start is None else ' besides the given atoms'}"
                )
        head = condition_tokens(self.fields, conditions)
        return WyckoffGrammar(
            self.fields, n_rows, head, given.composition, group, start, self.max_atoms, device
        )

    def translated(
        self, tokens: NDArray[np.int64], shift: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        """The same: tokens do not say where a crystal stands."""
        return tokens

    def equivalents(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        _, head, description = self._read(tokens)
        for other in equivalents(description):
            yield [BOS, *head, *description_tokens(self.fields, other), EOS]

    def equivalent(self, tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
        _, head, description = self._read(tokens)
        other = equivalent(description, rng)
        return [BOS, *head, *description_tokens(self.fields, other), EOS]

    def description(self, tokens: Sequence[int]) -> Description:
        """What the tokens of a crystal say. Raises CrystalError as `decode` does."""
        return self._read(tokens)[2]

    def element_tokens(self, element: int) -> list[int]:
        return [self.fields.element[element - 1]]

    def element_spans(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        elements = self.fields.element
        return [(i, i + 1) for i, token in enumerate(tokens) if token in elements]

    def _read(self, tokens: Sequence[int]) -> tuple[Conditions, list[int], Description]:
        """The conditions, their tokens and the formula's, and the description after them."""
        content = self.content(tokens)
        conditions, rest = read_conditions(self.fields, content)
        description = self._read_description(rest)
        _check_group(description.group, conditions)
        return conditions, content[: len(content) - len(rest)], description

    def _read_description(self, tokens: list[int]) -> Description:
        fields, rest = self.fields, list(reversed(tokens))

        def taken(kind: range) -> int:
            """The next token, as a number of its kind."""
            if not rest or rest[-1] not in kind:
                found = shown_token(fields, rest[-1]) if rest else "the end"
                due = shown_token(fields, kind.start)
                raise CrystalError(f"{found} where {due} may be")
            return rest.pop() - kind.start

        group = taken(fields.group) + 1
        table = table_of(group)
        system = table.group.system
        lengths = tuple(taken(fields.length) for _ in FREE_LENGTHS[system])
        angles = tuple(taken(fields.angle) for _ in FREE_ANGLES.get(system, ()))
        orbits: list[Orbit] = []
        n_atoms = 0
        while rest or not orbits:
            element, site = taken(fields.element) + 1, taken(fields.site)
            name = f"{LETTERS[site]} of space group {group}"
            if site >= len(table.dimensions):
                raise CrystalError(f"{name}: it has only {len(table.dimensions)} positions")
            free = tuple(taken(fields.coordinate) for _ in range(table.dimensions[site]))
            if not free and any(orbit.position == site for orbit in orbits):
                raise CrystalError(f"{name} has no freedom and is named twice")
            if not table.is_generic(site, free):
                raise CrystalError(f"{name}: the free coordinates are those of a more special one")
            orbits.append(Orbit(formula_order(element), site, free))
            n_atoms += table.multiplicities[site]
            if n_atoms > self.max_atoms:
                raise CrystalError(f"{n_atoms} atoms: at most {self.max_atoms} are written")
        return Description(group, lengths, angles, tuple(orbits))


@functools.lru_cache(maxsize=REMEMBERED)
def _described(structure: Structure) -> Description:
    """See `describe`; of one and the same object."""
    return describe(structure)


def _check_group(group: int, conditions: Conditions | None) -> None:
    """Raises CrystalError unless it is the one of the conditions."""
    stated = None if conditions is None else conditions.space_group
    if stated not in (None, group):
        raise CrystalError(f"it has space group {group}, its condition says {stated}")
