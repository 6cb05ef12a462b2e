"""The coordinate tokeniser: every number of a crystal is one token; about 50 tokens a crystal.

    bos [group] [formation energy] [hull]  element count  element count ...
        a b c  alpha beta gamma  element x y z   element x y z  ...  eos

Each kind of field has its own range of tokens. The three lengths share theirs, so do the angles and
the coordinates, and an element in the formula is the same token as in the body: what is equal looks
equal, and copying is a matter of attention. `coordinate_fields` states the rounding.

The cell and the order of atoms are those of the structure; `nqs.crystal.structures.symmetry`
chooses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from nqs.crystal.structures.elements import HEAVIEST
from nqs.crystal.structures.structure import CrystalError, Structure
from nqs.crystal.tokens.condition_fields import (
    condition_tokens,
    formula_tokens,
    read_conditions,
    shown_token,
)
from nqs.crystal.tokens.coordinate_fields import (
    ANGLES,
    BOS,
    EOS,
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
        formula = formula_tokens(self.fields, structure.composition)
        head = condition_tokens(self.fields, conditions)
        return [BOS, *head, *formula, *self._body(structure).tolist(), EOS]

    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        """See Tokeniser.decode; the composition is always among the conditions."""
        conditions, body = read_conditions(self.fields, self.content(tokens))
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
            condition_tokens(self.fields, conditions),
            [] if composition is None else formula_tokens(self.fields, composition),
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
                found, due = shown_token(fields, token), shown_token(fields, kind.start)
                raise CrystalError(f"{found} where {due} may be")
        offsets = np.array(tokens) - np.array([kind.start for kind in kinds])
        atoms = offsets[CELL:].reshape(n_atoms, ATOM)
        angles = ANGLES.values[offsets[3:CELL]]
        check_angles(angles, offsets[3:CELL])
        return Structure(
            LENGTHS.values[offsets[:3]], angles, atoms[:, 0] + 1, atoms[:, 1:] / N_BINS
        )
