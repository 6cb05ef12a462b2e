"""The interface of every tokeniser: a crystal as a sequence of integers, and back.

A sequence is  bos, [condition tokens], body, eos;  pad fills the batch after it. The body of a
crystal and the conditions are what `encode` writes and `decode` reads; rounding is stated in each
tokeniser's docstring, and decode(encode(s)) is s up to that rounding, exactly idempotent after it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nqs.crystal.structures.elements import HEAVIEST, formula_order, symbol
from nqs.crystal.structures.structure import CrystalError, Structure, formula_of
from nqs.errors import require


@dataclass(frozen=True)
class Conditions:
    """What a crystal is asked to be; None: not said.

    Attributes:
        composition: atomic number -> number of atoms in the cell.
        space_group: 1..230.
        formation_energy: eV per atom.
        energy_above_hull: eV per atom, >= 0.

    Raises InputError for values that no crystal has.
    """

    composition: Mapping[int, int] | None = None
    space_group: int | None = None
    formation_energy: float | None = None
    energy_above_hull: float | None = None

    def __post_init__(self) -> None:
        for number, count in (self.composition or {}).items():
            require(1 <= number <= HEAVIEST, "atomic number", number, f"must be 1..{HEAVIEST}")
            require(count >= 1, f"atoms of {symbol(number)}", count, "must be at least 1")
        if self.composition is not None:
            require(len(self.composition) > 0, "composition", "", "needs an element")
        group, energy, hull = self.space_group, self.formation_energy, self.energy_above_hull
        if group is not None:
            require(1 <= group <= 230, "space_group", group, "must be within 1..230")
        if energy is not None:
            require(math.isfinite(energy), "formation_energy", energy, "must be finite")
        if hull is not None:
            require(0 <= hull < math.inf, "energy_above_hull", hull, "must be finite and >= 0")

    @property
    def formula(self) -> tuple[tuple[int, int], ...]:
        """(atomic number, atoms) pairs, the most electropositive first; none if it is not said."""
        composition = self.composition or {}
        return tuple(
            (number, composition[number]) for number in sorted(composition, key=formula_order)
        )


class Grammar(ABC):
    """Which tokens may come next, for R sequences side by side; a push-down automaton.

    Walked from after bos: `allowed` says what may follow, `advance` reads what was drawn. Every
    path that it allows reaches eos within `max_length` tokens, and what lies between decodes.
    """

    max_length: int
    """Longest sequence it allows, bos and eos included."""

    @abstractmethod
    def allowed(self) -> Tensor:
        """(R, V) bool, at least one True a row; pad alone after eos."""

    @abstractmethod
    def advance(self, tokens: Tensor) -> None:
        """Read one allowed token a row, (R,) int64."""


class Tokeniser(ABC):
    """Crystals as sequences of tokens 0 .. len(vocabulary) - 1.

    A subclass is chosen by the kind in its class line, anyone's by MODULE:CLASS; its constructor
    takes max_atoms, the most atoms of a crystal.

    Attributes:
        name: the kind, or the class' name.
        canonical: whether tokens depend on the crystal alone, not on where it stands in its cell
            nor on the order of its atoms; what freedom they have is in `equivalents`.
        writes_group: whether tokens say the space group, see `group_of`.
        keeps_apart: whether `grammar` takes `apart`, a distance in Angstrom that it then keeps
            atoms from each other where it can.
        vocabulary: what each token stands for, readable and unique.
        pad, bos, eos, mask: the special tokens; `mask` stands for a hidden element.
        max_atoms: most atoms of a crystal that it writes.
        max_length: no sequence of it is longer, infilling included.
    """

    kinds: ClassVar[dict[str, type[Tokeniser]]] = {}

    name: ClassVar[str]
    canonical: ClassVar[bool] = False
    keeps_apart: ClassVar[bool] = False
    writes_group: ClassVar[bool] = False
    vocabulary: tuple[str, ...]
    pad: int
    bos: int
    eos: int
    mask: int
    max_atoms: int
    max_length: int

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.name = kind or cls.__name__
        if kind is not None:
            Tokeniser.kinds[kind] = cls

    @abstractmethod
    def encode(self, structure: Structure, conditions: Conditions | None = None) -> list[int]:
        """bos .. eos. Raises CrystalError, with the reason, for what cannot be written (too many
        atoms, a length out of range)."""

    def conditioned(
        self, body: Sequence[int], structure: Structure, conditions: Conditions
    ) -> list[int]:
        """encode(structure, conditions), where `body`, encode(structure), is known."""
        return self.encode(structure, conditions)

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        """What was encoded; tokens from bos to eos, pads after it ignored. Raises CrystalError for
        a sequence that the grammar does not allow."""

    @abstractmethod
    def grammar(
        self,
        n_rows: int,
        conditions: Conditions | None = None,
        *,
        partial: Structure | None = None,
        device: torch.device | str = "cpu",
    ) -> Grammar:
        """What n_rows samples may be under these conditions; its tensors live on `device`.

        The condition tokens come first and are forced; a given composition is met exactly; the
        cell and the atoms of a partial structure come first in the body and are forced. Raises
        CrystalError for conditions that nothing meets.
        """

    @abstractmethod
    def translated(
        self, tokens: NDArray[np.int64], shift: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        """The tokens (..., L) of the crystal moved along its axes by shift / n_bins of each,
        exactly: a permutation of coordinate tokens."""

    @property
    @abstractmethod
    def n_bins(self) -> int:
        """Number of distinct fractional coordinates along an axis; 1 if translations do not change
        the tokens."""

    def n_condition_tokens(self, conditions: Conditions | None) -> int:
        """Tokens after bos without which those that follow are a crystal's without the conditions
        (the composition aside). Raises CrystalError where conditions are not written like that."""
        raise CrystalError(f"data.tokeniser={self.name} does not write its conditions first")

    def structure_type(self, tokens: Sequence[int]) -> Hashable:
        """Of the crystal of the tokens: its space group, and the element and Wyckoff position of
        each orbit; what spglib finds of them within TYPE_TOLERANCE."""
        structure, _ = self.decode(tokens)
        return structure_type(structure)

    def group_of(self, tokens: Sequence[int]) -> int | None:
        """The space group that the tokens say, with `writes_group`; else None."""
        return None

    def type_tokens(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """(start, stop) of the tokens of a crystal that say its structure type, where they stand
        in a row after the conditions and the formula alone; else None."""
        return None

    def exchanged(
        self, tokens: Sequence[int], elements: Mapping[int, int], volume: float = 1.0
    ) -> list[int]:
        """The crystal of the tokens, without conditions, after `Structure.exchanged`. Raises
        CrystalError where that cannot be written."""
        from nqs.crystal.structures.symmetry import ordered  # spglib is of an extra

        structure, _ = self.decode(tokens)
        return self.encode(ordered(structure.exchanged(elements, volume)))

    def features(self) -> NDArray[np.float64] | None:
        """What is known of each token, (V, F), rows of length 1 or 0: tokens that are alike have
        like rows (nqs.core.features); None: nothing."""
        return None

    def equivalents(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """Every sequence that says the same of the same crystal, these tokens among them, each
        once; by default these alone. There may be very many."""
        yield list(tokens)

    def equivalent(self, tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
        """One of them by chance, each with a chance > 0; as long as the tokens."""
        return list(tokens)

    def infilling(self, tokens: Sequence[int], element: int) -> tuple[list[int], int]:
        """The second task of training: which element was hidden?

        From a crystal's tokens bos .. eos:  the same with `mask` for every mention of the element
        (atomic number), then mask, the element, eos;  and the position of that last mask, from
        which on the answer is predicted. The formula is masked too, else it would tell. Only
        whole elements are: hiding C leaves Cl alone. Raises CrystalError if it is not mentioned.
        """
        word = self.element_tokens(element)
        hidden: list[int] = []
        index = 0
        for start, stop in self.element_spans(tokens):
            if list(tokens[start:stop]) == word:
                hidden += [*tokens[index:start], self.mask]
                index = stop
        if index == 0:
            raise CrystalError(f"{symbol(element)} is not in the crystal: nothing to mask")
        hidden += tokens[index:]
        return [*hidden, self.mask, *word, self.eos], len(hidden)

    @abstractmethod
    def element_tokens(self, element: int) -> list[int]:
        """How an element, by atomic number, is written."""

    @abstractmethod
    def element_spans(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """(start, stop) of each element that the tokens of a crystal mention."""

    def content(self, tokens: Sequence[int]) -> list[int]:
        """What stands between bos and eos. Raises CrystalError if there is more or no end."""
        whole = [int(token) for token in tokens]
        while whole and whole[-1] == self.pad:
            whole.pop()
        if len(whole) < 2 or whole[0] != self.bos or whole[-1] != self.eos:
            raise CrystalError("a crystal's tokens begin with bos and end with eos, pads after it")
        return whole[1:-1]

    def padded(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """(R, longest) int64."""
        rows = [torch.tensor(list(tokens), dtype=torch.int64) for tokens in sequences]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)


TYPE_TOLERANCE = 0.1
"""Angstrom by which atoms may be off the symmetry of a structure type: roundings of coordinates."""


def structure_type(structure: Structure) -> Hashable:
    """Its space group, and the element and Wyckoff position of each orbit (canonical ones); its
    formula alone where spglib finds no group."""
    from nqs.crystal.tokens.wyckoff_description import describe  # spglib is of an extra

    try:
        return describe(structure, TYPE_TOLERANCE).structure_type
    except CrystalError:
        return structure.formula


def check_agreement(structure: Structure, conditions: Conditions | None) -> None:
    """Raises CrystalError unless the structure has the composition of the conditions."""
    stated = None if conditions is None else conditions.composition
    if stated is not None and dict(stated) != structure.composition:
        raise CrystalError(
            f"the cell holds {structure.formula}, its condition says {formula_of(dict(stated))}"
        )


def remaining_atoms(
    conditions: Conditions | None, partial: Structure | None, max_atoms: int
) -> dict[int, int] | None:
    """Atoms to be placed besides those of the partial structure; None: any.

    Raises CrystalError if there are too many, or fewer than the partial structure has.
    """
    if partial is not None and partial.n_atoms > max_atoms:
        raise CrystalError(f"{partial.n_atoms} atoms are given: at most {max_atoms} are written")
    if conditions is None or conditions.composition is None:
        return None
    remaining = dict(conditions.composition)
    total = sum(remaining.values())
    if total > max_atoms:
        raise CrystalError(f"{formula_of(remaining)} has {total} atoms: at most {max_atoms} fit")
    for number, count in ({} if partial is None else partial.composition).items():
        remaining[number] = remaining.get(number, 0) - count
        if remaining[number] < 0:
            raise CrystalError(
                f"the given atoms hold {count} {symbol(number)}, the composition "
                f"{remaining[number] + count}"
            )
    return remaining
