"""The one interface of every spin system: a diagonal plus a fixed list of flip patterns.

Basis: configurations are rows of bits, True = 1. Bit 1 is the excited atom (n = 1), sigma^z = 1 - 2 n,
so bit 0 has sigma^z = +1 (NetKet's `Spin` lists its local states in the same order).
Site 0 is the most significant bit wherever a configuration is written as a number:
index = sum_i s_i 2^(N-1-i), the order of a Kronecker product over sites.

Any sum of Pauli strings has the form

    H = sum_s diagonal(s) |s><s|  +  sum_g sum_s off_diagonal_g(s) |s><s xor flips_g|

(group the strings by the set of sites on which X or Y acts), so local energies, exact
diagonalisation and bridges are written once, against this class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Hamiltonian(ABC):
    """A spin-1/2 (two-level) Hamiltonian on N sites with G distinct flip patterns.

    Concrete classes set `n_sites` and `flips` and implement the two matrix-element methods.
    All tensors of a Hamiltonian live on one device; `to(device)` moves them.
    """

    n_sites: int
    flips: Tensor
    """(G, N) bool; each distinct flip pattern once, no empty row (that part is the diagonal)."""

    @abstractmethod
    def diagonal(self, configs: Tensor) -> Tensor:
        """<s|H|s> for each row s of configs (B, N) bool -> (B,) float64."""

    @abstractmethod
    def off_diagonal(self, configs: Tensor) -> Tensor:
        """<s|H|s xor flips_g> for configs (B, N) bool -> (B, G).

        float64, or complex128 if `is_complex`; exactly zero where the term does not act.
        The result may be a broadcast view (do not write into it).
        """

    @property
    @abstractmethod
    def infinite_temperature_energy(self) -> float:
        """Tr H / 2^N, the zero of energy in the V-score (not 0 for Rydberg atoms)."""

    @property
    @abstractmethod
    def is_complex(self) -> bool:
        """Whether any matrix element has an imaginary part (strings with an odd number of Y)."""

    @property
    @abstractmethod
    def is_stoquastic(self) -> bool:
        """Whether every off-diagonal element is real and <= 0 in this basis.

        Then the ground state can be chosen with psi(s) >= 0 (Perron-Frobenius) and a positive
        wavefunction can represent it.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same Hamiltonian with its tensors on `device`."""
