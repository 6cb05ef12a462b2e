"""The one interface of every spin system: a diagonal plus a fixed list of flip patterns.

Basis: configurations are rows of bits, True = 1. Bit 1 is the excited atom: n = bit,
sigma^z = 1 - 2 n, so bit 0 has sigma^z = +1 (the order of the local states of NetKet's `Spin`).
Site 0 is the most significant bit wherever a configuration is written as a number:
index = sum_i s_i 2^(N-1-i), the order of a Kronecker product over sites.

Any sum of Pauli strings has the form

    H = sum_s diagonal(s) |s><s|  +  sum_g sum_s off_diagonal_g(s) |s><s xor flips_g|

(group the strings by the set of sites on which X or Y acts), so local energies, exact
diagonalisation and bridges are written once, against this class.

Rotated sites. U = product of sz_i over some sites is diagonal in this basis and U^2 = 1: levels,
|psi(s)|^2 and averages of sz are the same for H and U H U, while sx_i and sy_i of those sites
change sign. A flip of an odd number of them has the other sign in U H U. A Hamiltonian chooses the
sites, `rotated`, so that its off-diagonal elements become <= 0 where that is possible at all
(`hamiltonians.rotation`; on two sublattices it is Marshall's sign rule), since then a positive
wavefunction can be its ground state. Flips, elements and wavefunctions are those of U H U;
`describe`, `pauli_terms`, the bridges and observables are those of the H that was asked for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from hamiltonians.lattices.lattice import Lattice

PauliTerm = tuple[float, dict[int, str]]
"""A real coefficient and the sites its X, Y and Z act on; no site: the identity."""


class Hamiltonian(ABC):
    """A spin-1/2 (two-level) Hamiltonian on N sites with G distinct flip patterns.

    Concrete classes set `n_sites`, `flips` and, where there is one, `lattice`, and implement the
    matrix elements, `infinite_temperature_energy`, `is_complex`, `is_stoquastic`.
    All tensors of a Hamiltonian live on one device; `to(device)` moves them.
    """

    n_sites: int
    lattice: Lattice | None = None
    """Where the sites are; it stays on the CPU. None where only couplings are known."""
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

    @cached_property
    def rotated(self) -> Tensor:
        """(N,) bool: the sites of U = prod sz_i; the matrix elements are those of U H U.

        No site is, unless a class sets it.
        """
        return torch.zeros(self.n_sites, dtype=torch.bool, device=self.flips.device)

    @property
    def x_signs(self) -> Tensor:
        """(N,) float64, -1 where a site is rotated, else +1: <sx_i> and <sy_i> of H are these times
        those of the state of U H U."""
        return 1 - 2 * self.rotated.to(torch.float64)

    @property
    def conserves_magnetisation(self) -> bool:
        """Whether sum_i sz_i (the number of 1 bits) commutes with H.

        Here: whether nothing flips. That is exact where elements do not depend on the
        configuration (one starts from all bits 0); other classes say it themselves.
        """
        return len(self.flips) == 0

    @property
    def constant_off_diagonal(self) -> Tensor | None:
        """(G,) elements where they do not depend on the configuration, else None.

        Then off_diagonal(configs) is this row for every configuration, which exact
        diagonalisation turns into a much faster product.
        """
        return None

    @property
    def diagonal_rounding(self) -> float:
        """Rounding error of `diagonal` beyond 2^-52 of each value: that of large terms that cancel.

        0 unless a class says otherwise.
        """
        return 0.0

    def pauli_terms(self) -> list[PauliTerm]:
        """H as a sum of Pauli strings, without the rotation, for bridges to other programs.

        Raises NotImplementedError where a class has not said how.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say its Pauli strings")

    def has_symmetry(self, permutation: Tensor) -> bool | None:
        """Whether s -> s[:, permutation] leaves U H U as it is; None: the class does not know.

        For classes whose couplings say it faster than their Pauli strings do.
        """
        return None

    def describe(self) -> str:
        """One line for people: the system, its lattice and its couplings."""
        return f"{type(self).__name__}({self.n_sites} sites)"

    def __repr__(self) -> str:
        return self.describe()

    def to(self, device: torch.device | str) -> Self:
        """The same Hamiltonian with its tensors on `device`; this one stays as it is."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved


def couplings(name: str, value: float | Sequence[float] | Tensor, count: int, per: str) -> Tensor:
    """(count,) float64 from one number or one per site (or bond), finite.

    Raises ValueError naming the coupling, what was given and what is allowed.
    """
    try:
        given = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}; it must be a number or one per {per}") from None
    if given.dim() > 1 or (given.dim() == 1 and len(given) != count):
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}; it must be a number or one per {per} ({count})"
        )
    if not torch.isfinite(given).all():
        bad = given.flatten()[~torch.isfinite(given.flatten())][0].item()
        raise ValueError(f"{name} contains {bad}; every coupling must be finite")
    return given.expand(count).clone()


def summary(values: Tensor) -> str:
    """'1.5' for equal values, '0.5..2' for a range of them; what `describe` prints."""
    if len(values) == 0:
        return "none"
    low, high = float(values.min()), float(values.max())
    return f"{low:.10g}" if low == high else f"{low:.10g}..{high:.10g}"
