"""The Wyckoff tokeniser: a crystal by its space group and what that leaves free; about 28 tokens.

    bos [group] [formation energy] [hull]  element count  element count ...
        group  element site  element site ...  size  free ratios  free angles
        free coordinates ...  eos

First comes what the crystal is made of and its structure type, then the numbers. A site is the
letter of a Wyckoff position of the group in spglib's standard setting (monoclinic axis b,
rhombohedral groups in hexagonal axes, origin choice 1); its free coordinates are 0 to 3 numbers
(nqs.crystal.structures.wyckoff_positions), those of all orbits come at the end, in the order of the
sites. The cell is given by (volume / atoms)^(1/3), b / a and c / a (`wyckoff_description`). The
formula, of the primitive cell, comes before the group, so that p(group | formula) is learnt too; a
group that is given stands first and again after the formula.

Rounding is that of `coordinate_fields`, of the conventional cell: size and ratios to 1 %, angles to
whole degrees, free coordinates to 1/120, or to the nearest one that is not special where that one
is (usually the next). Coordinates without freedom are exact, so is the symmetry. Of the equivalent
descriptions the canonical one is written (`wyckoff_description`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
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
from nqs.crystal.tokens.coordinate_fields import (
    BOS,
    EOS,
    MASK,
    PAD,
    RATIOS,
    SIZES,
    WIDEST,
    Fields,
)
from nqs.crystal.tokens.reachable_formulas import formulas_of
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, check_agreement, remaining_atoms
from nqs.crystal.tokens.wyckoff_description import (
    FREE_ANGLES,
    FREE_RATIOS,
    Description,
    Orbit,
    canonical_of,
    describe,
    described_without_symmetry,
    equivalent,
    equivalents,
    size_of,
    structure_of,
    table_of,
)
from nqs.crystal.tokens.wyckoff_grammar import ATOM, CELL, WyckoffGrammar, description_tokens
from nqs.errors import require

REMEMBERED = 64
"""Structures whose description is kept: each is written several times in a row."""


@final
class WyckoffTokeniser(Tokeniser, kind="wyckoff"):
    """Space group, sites, free lattice numbers and free coordinates.

    Args:
        max_atoms: most atoms in a primitive cell, 1..1000.

    Attributes:
        fields: which tokens are what.
    """

    pad, bos, eos, mask = PAD, BOS, EOS, MASK
    canonical = True
    keeps_apart = True
    writes_group = True

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
        _check_group(description.group, _stated_group(conditions))
        head = condition_tokens(self.fields, conditions)
        return [BOS, *head, *formula, *description_tokens(self.fields, description), EOS]

    def conditioned(
        self, body: Sequence[int], structure: Structure, conditions: Conditions
    ) -> list[int]:
        """See Tokeniser.conditioned; symmetry is not searched again."""
        check_agreement(structure, conditions)
        _check_group(self.description(body).group, _stated_group(conditions))
        return [BOS, *condition_tokens(self.fields, conditions), *body[1:]]

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
        apart: float | None = None,
        group: int | None = None,
        device: torch.device | str = "cpu",
    ) -> WyckoffGrammar:
        """See Tokeniser.grammar. A partial structure keeps its symmetry: what is added to it are
        whole orbits of its space group, or single atoms where the group 1 is asked for.

        apart: Angstrom by which the last coordinate of each orbit keeps atoms apart, if it can.
        group: the space group, where it is no condition.
        """
        remaining = remaining_atoms(conditions, partial, self.max_atoms)
        given = conditions or Conditions()
        group = group if given.space_group is None else given.space_group
        start = None
        if partial is not None:
            start = described_without_symmetry(partial) if group == 1 else describe(partial)
            _check_group(start.group, group)
            group = start.group
        if remaining is not None and group is not None:
            used = [] if start is None else [orbit.position for orbit in start.orbits]
            if not formulas_of(group).reaches(remaining.values(), used):
                raise CrystalError(
                    f"no Wyckoff positions of space group {group} together hold "
                    f"{formula_of({n: count for n, count in remaining.items() if count})}"
                    f"{'' if start is None else ' besides the given atoms'}"
                )
        most, volume = self.max_atoms, 0.0
        if start is not None:  # the cell is given: there must be room for all
            assert partial is not None
            volume = partial.volume
            size_of(volume, sum((given.composition or start.composition).values()))
            most = min(most, int(volume / SIZES.values[0] ** 3))
        head = condition_tokens(self.fields, conditions)
        return WyckoffGrammar(
            self.fields, n_rows, head, given.composition, group, start, volume, most, apart, device
        )

    def translated(
        self, tokens: NDArray[np.int64], shift: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        """The same: tokens do not say where a crystal stands."""
        return tokens

    def structure_type(self, tokens: Sequence[int]) -> Hashable:
        """See Tokeniser.structure_type; what the tokens say."""
        return canonical_of(self.description(tokens)).structure_type

    def group_of(self, tokens: Sequence[int]) -> int:
        """See Tokeniser.group_of."""
        return self.description(tokens).group

    def type_tokens(self, tokens: Sequence[int]) -> tuple[int, int]:
        """See Tokeniser.type_tokens: from the group to the last site."""
        _, head, _ = self._read(tokens)
        return 1 + len(head), next(i for i, t in enumerate(tokens) if t in self.fields.size)

    def exchanged(
        self, tokens: Sequence[int], elements: Mapping[int, int], volume: float = 1.0
    ) -> list[int]:
        """See Tokeniser.exchanged; at the ends of the grid of sizes those."""
        description = self.description(tokens)
        orbits = [
            dataclasses.replace(orbit, rank=formula_order(elements[orbit.element]))
            for orbit in description.orbits
        ]
        size = SIZES.values[description.size] * np.cbrt(volume)
        index = int(SIZES.index(np.clip(size, SIZES.values[0], SIZES.values[-1])))
        other = canonical_of(
            dataclasses.replace(description, size=index, orbits=tuple(sorted(orbits)))
        )
        formula = formula_tokens(self.fields, other.composition)
        return [BOS, *formula, *description_tokens(self.fields, other), EOS]

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

    def n_condition_tokens(self, conditions: Conditions | None) -> int:
        """See Tokeniser.n_condition_tokens."""
        return len(condition_tokens(self.fields, conditions))

    def features(self) -> NDArray[np.float64]:
        """See Tokeniser.features."""
        return self.fields.features()

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
        _check_group(description.group, conditions.space_group)
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
        sites: list[tuple[int, int]] = []  # element, position
        while not sites or (rest and rest[-1] in fields.element):
            element, site = taken(fields.element) + 1, taken(fields.site)
            name = f"{LETTERS[site]} of space group {group}"
            if site >= len(table.dimensions):
                raise CrystalError(f"{name}: it has only {len(table.dimensions)} positions")
            if not table.dimensions[site] and any(site == other for _, other in sites):
                raise CrystalError(f"{name} has no freedom and is named twice")
            sites.append((element, site))
            n_atoms = sum(table.multiplicities[position] for _, position in sites)
            if n_atoms > self.max_atoms:
                raise CrystalError(f"{n_atoms} atoms: at most {self.max_atoms} are written")
        system = table.group.system
        size = taken(fields.size)
        ratios = tuple(taken(fields.ratio) for _ in FREE_RATIOS[system])
        steps = (WIDEST, *ratios)
        if max(steps) - min(steps) > WIDEST:
            raise CrystalError(f"cell lengths differ by more than {RATIOS.values[-1]:.3g} times")
        angles = tuple(taken(fields.angle) for _ in FREE_ANGLES.get(system, ()))
        orbits: list[Orbit] = []
        for element, site in sites:
            free = tuple(taken(fields.coordinate) for _ in range(table.dimensions[site]))
            if not table.is_generic(site, free):
                name = f"{LETTERS[site]} of space group {group}"
                raise CrystalError(f"{name}: the free coordinates are those of a more special one")
            orbits.append(Orbit(formula_order(element), site, free))
        if rest:
            raise CrystalError(f"{shown_token(fields, rest[-1])} where the end may be")
        return Description(group, size, ratios, angles, tuple(orbits))


@functools.lru_cache(maxsize=REMEMBERED)
def _described(structure: Structure) -> Description:
    """See `describe`; of one and the same object."""
    return describe(structure)


def _stated_group(conditions: Conditions | None) -> int | None:
    return None if conditions is None else conditions.space_group


def _check_group(group: int, stated: int | None) -> None:
    """Raises CrystalError unless it is the one that is asked for, if any is."""
    if stated not in (None, group):
        raise CrystalError(f"it has space group {group}, its condition says {stated}")
