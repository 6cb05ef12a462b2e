"""The coordinate tokeniser: every number of a crystal is one token; about 50 tokens a crystal.

    bos [group] [formation energy] [hull]  element count  element count ...
        a b c  alpha beta gamma  element x y z   element x y z  ...  eos

The formula comes first, so that one model draws p(formula) p(cell, atoms | formula) and p(cell,
atoms | a formula that is given), both learnt from every crystal.

Each kind of field has its own range of tokens. The three lengths share theirs, so do the angles and
the coordinates, and an element in the formula is the same token as in the body: what is equal looks
equal, and copying is a matter of attention. `coordinate_fields` states the rounding.

The cell and the order of atoms are those of the structure; `nqs.crystal.structures.symmetry`
chooses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from nqs.crystal.structures.elements import HEAVIEST
from nqs.crystal.structures.structure import CrystalError, Structure, formula_of
from nqs.crystal.tokens.coordinate_fields import (
    ANGLES,
    BOS,
    ENERGIES,
    EOS,
    HULLS,
    LENGTHS,
    MASK,
    N_BINS,
    PAD,
    Fields,
    check_angles,
)
from nqs.crystal.tokens.coordinate_grammar import ATOM, CELL, CoordinateGrammar
from nqs.crystal.tokens.tokeniser import Conditions, Tokeniser, check_agreement, remaining_atoms
from nqs.errors import require


@final
class CoordinateTokeniser(Tokeniser, kind="coordinate"):
    """Binned numbers as single tokens.

    Args:
        max_atoms: most atoms in a cell, 1..1000.

    Attributes:
        fields: which tokens are what.
    """

    pad, bos, eos, mask = PAD, BOS, EOS, MASK

    def __init__(self, max_atoms: int = 80) -> None:
        require(1 <= max_atoms <= 1000, "max_atoms", max_atoms, "must be within 1..1000")
        self.max_atoms = max_atoms
        self.fields = Fields(max_atoms)
        self.vocabulary = self.fields.vocabulary
        n_conditions = 3 + 2 * min(max_atoms, HEAVIEST)
        self.max_length = 2 + n_conditions + CELL + ATOM * max_atoms + 3  # 3: of infilling

    @property
    def n_bins(self) -> int:
        return N_BINS

    def encode(self, structure: Structure, conditions: Conditions | None = None) -> list[int]:
        check_agreement(structure, conditions)
        formula = self._formula(structure.composition)
        return [BOS, *self._head(conditions), *formula, *self._body(structure).tolist(), EOS]

    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        """See Tokeniser.decode; the composition is always among the conditions."""
        conditions, body = self._read_head(self.content(tokens))
        structure = self._read_body(body)
        check_agreement(structure, conditions)
        return structure, conditions

    def grammar(
        self,
        n_rows: int,
        conditions: Conditions | None = None,
        *,
        partial: Structure | None = None,
        device: torch.device | str = "cpu",
    ) -> CoordinateGrammar:
        remaining_atoms(conditions, partial, self.max_atoms)  # refuses what cannot be
        composition = None if conditions is None else conditions.composition
        return CoordinateGrammar(
            self.fields,
            n_rows,
            self._head(conditions),
            [] if composition is None else self._formula(composition),
            [] if partial is None else self._body(partial).tolist(),
            {} if partial is None else partial.composition,
            composition,
            self.max_atoms,
            device,
        )

    def translated(
        self, tokens: NDArray[np.int64], shift: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        start = self.fields.coordinate.start
        index = tokens - start  # (..., L)
        placed = (index >= 0) & (index < N_BINS)
        axis = (np.cumsum(placed, axis=-1) - 1) % 3
        moved = (index + np.asarray(shift)[axis]) % N_BINS + start
        return np.where(placed, moved, tokens)

    def element_tokens(self, element: int) -> list[int]:
        return [self.fields.element[element - 1]]

    def element_spans(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        elements = self.fields.element
        return [(i, i + 1) for i, token in enumerate(tokens) if token in elements]

    def _head(self, conditions: Conditions | None) -> list[int]:
        """The conditions but for the composition."""
        fields, given = self.fields, conditions or Conditions()
        tokens = []
        if given.space_group is not None:
            tokens.append(fields.group[given.space_group - 1])
        if given.formation_energy is not None:
            tokens.append(fields.energy[int(ENERGIES.index(given.formation_energy))])
        if given.energy_above_hull is not None:
            tokens.append(fields.hull[int(HULLS.index(given.energy_above_hull))])
        return tokens

    def _formula(self, composition: Mapping[int, int]) -> list[int]:
        """Raises CrystalError for more atoms than are written."""
        n_atoms = sum(composition.values())
        if n_atoms > self.max_atoms:
            raise CrystalError(f"{n_atoms} atoms: at most {self.max_atoms} are written")
        fields, terms = self.fields, Conditions(composition).formula
        pairs = [(fields.element[number - 1], fields.count[count - 1]) for number, count in terms]
        return [token for pair in pairs for token in pair]

    def _body(self, structure: Structure) -> NDArray[np.int64]:
        """(6 + 4 A,) tokens. Raises CrystalError for what is out of range."""
        fields = self.fields
        angles = ANGLES.index(structure.angles)
        check_angles(structure.angles, angles)
        places = np.rint(structure.positions * N_BINS).astype(np.int64) % N_BINS  # (A, 3)
        atoms = np.column_stack(
            [structure.numbers - 1 + fields.element.start, places + fields.coordinate.start]
        )
        cell = [LENGTHS.index(structure.lengths) + fields.length.start, angles + fields.angle.start]
        return np.concatenate([*cell, atoms.ravel()])

    def _read_head(self, tokens: list[int]) -> tuple[Conditions, list[int]]:
        """The conditions and the tokens after them."""
        fields, rest = self.fields, list(reversed(tokens))
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

    def _read_body(self, tokens: list[int]) -> Structure:
        fields = self.fields
        n_atoms, odd = divmod(len(tokens) - CELL, ATOM)
        if odd or not 1 <= n_atoms <= self.max_atoms:
            raise CrystalError(
                f"{len(tokens)} tokens of cell and atoms: must be {CELL} + {ATOM} x "
                f"1..{self.max_atoms}"
            )
        kinds = [fields.length] * 3 + [fields.angle] * 3
        kinds += ([fields.element] + [fields.coordinate] * 3) * n_atoms
        for token, kind in zip(tokens, kinds, strict=True):
            if token not in kind:
                raise CrystalError(f"{self._shown(token)} where {self._shown(kind.start)} may be")
        offsets = np.array(tokens) - np.array([kind.start for kind in kinds])
        atoms = offsets[CELL:].reshape(n_atoms, ATOM)
        angles = ANGLES.values[offsets[3:CELL]]
        check_angles(angles, offsets[3:CELL])
        return Structure(
            LENGTHS.values[offsets[:3]], angles, atoms[:, 0] + 1, atoms[:, 1:] / N_BINS
        )

    def _shown(self, token: int) -> str:
        known = 0 <= token < len(self.vocabulary)
        return self.vocabulary[token] if known else f"token {token}"
