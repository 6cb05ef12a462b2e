"""The interface of every tokeniser: a crystal as a sequence of integers, and back.

A sequence is  bos, [condition tokens], body, eos;  pad fills the batch after it. The body of a
crystal and the conditions are what `encode` writes and `decode` reads; rounding is stated in each
tokeniser's docstring, and decode(encode(s)) is s up to that rounding, exactly idempotent after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nqs.crystal.structure import Structure


@dataclass(frozen=True)
class Conditions:
    """What a crystal is asked to be; None: not said.

    Attributes:
        composition: atomic number -> number of atoms in the cell.
        space_group: 1..230.
        formation_energy: eV per atom.
        energy_above_hull: eV per atom, >= 0.
    """

    composition: Mapping[int, int] | None = None
    space_group: int | None = None
    formation_energy: float | None = None
    energy_above_hull: float | None = None


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

    Attributes:
        vocabulary: what each token stands for, readable and unique.
        pad, bos, eos, mask: the special tokens; `mask` stands for a hidden element.
    """

    name: ClassVar[str]
    vocabulary: tuple[str, ...]
    pad: int
    bos: int
    eos: int
    mask: int

    @abstractmethod
    def encode(self, structure: Structure, conditions: Conditions | None = None) -> list[int]:
        """bos .. eos. Raises CrystalError, with the reason, for what cannot be written (too many
        atoms, a length out of range)."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> tuple[Structure, Conditions]:
        """What was encoded; tokens from bos to eos, pads after it ignored. Raises CrystalError for
        a sequence that the grammar does not allow."""

    @abstractmethod
    def grammar(
        self, n_rows: int, conditions: Conditions | None = None, *, partial: Structure | None = None
    ) -> Grammar:
        """What n_rows samples may be under these conditions.

        The condition tokens come first and are forced; a given composition is met exactly; the
        atoms (and the cell) of a partial structure come first in the body and are forced. Raises
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
        """Number of distinct fractional coordinates along an axis."""

    @abstractmethod
    def infilling(self, tokens: Sequence[int], element: int) -> tuple[list[int], int]:
        """(tokens with every mention of the element, atomic number, in the body replaced by `mask`
        and a question put after it, position from which the answer is predicted): the second task
        of training. Only whole element tokens are masked: hiding C leaves Cl alone."""

    def padded(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """(R, longest) int64."""
        rows = [torch.tensor(list(tokens), dtype=torch.int64) for tokens in sequences]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
