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
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Self

import torch
from torch import Tensor

from hamiltonians.arguments import Arguments
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.probing import all_configurations, probing_configurations

PauliTerm = tuple[float, dict[int, str]]
"""A real coefficient and the sites its X, Y and Z act on; no site: the identity."""

WEAKEST: Final = 1e-30
STRONGEST: Final = 1e30
"""Couplings are 0 or in between: squares of energies stay numbers. Choose the unit accordingly."""

Number = Annotated[float, "0 or 1e-30 .. 1e30 in size"]
"""A coupling of the whole system."""

Coupling = Annotated[float | Sequence[float] | Tensor, "0 or 1e-30 .. 1e30 in size"]
"""One number, or one per site or bond."""

MAX_TRIED_SITES: Final = 14
"""Up to this many sites all configurations are tried to tell the signs of matrix elements."""

ROUNDING: Final = 1e-12
"""Elements below this fraction of the largest count as rounding."""


class Hamiltonian(Arguments, ABC):
    """A spin-1/2 (two-level) Hamiltonian on N sites with G distinct flip patterns.

    A class of one's own sets `n_sites`, `flips` and, where there is one, `lattice`, and implements
    `diagonal`, `off_diagonal` and `infinite_temperature_energy`. All else has a default; what a
    class knows better or faster it says itself. Named in the class line,
    `class Mine(Hamiltonian, kind="mine")`, it can be chosen by that name, with the parameters of
    its constructor as keys; those that it keeps as attributes of the same names are in its repr.
    All tensors of a Hamiltonian live on one device; `to(device)` moves them.
    """

    kinds: ClassVar[dict[str, type[Hamiltonian]]] = {}
    """Classes that are chosen by name."""

    n_sites: int
    lattice: Lattice | None = None
    """Where the sites are; it stays on the CPU. None where only couplings are known."""
    flips: Tensor
    """(G, N) bool; each distinct flip pattern once, no empty row (that part is the diagonal)."""

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Hamiltonian.kinds[kind] = cls

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

    @cached_property
    def is_complex(self) -> bool:
        """Whether any matrix element has an imaginary part (strings with an odd number of Y).

        Here: whether `off_diagonal` returns complex numbers.
        """
        return self.off_diagonal(self.flips.new_zeros((1, self.n_sites))).is_complex()

    @cached_property
    def is_stoquastic(self) -> bool:
        """Whether every off-diagonal element is real and <= 0 in this basis.

        Then the ground state can be chosen with psi(s) >= 0 (Perron-Frobenius) and a positive
        wavefunction can represent it. Here: exact for elements that do not depend on the
        configuration and for systems of up to 14 sites; False for others, so True is always right.
        """
        if len(self.flips) == 0:
            return True
        if self.is_complex:
            return False
        if self.constant_off_diagonal is not None:
            return bool((self.constant_off_diagonal <= 0).all())
        if self.n_sites > MAX_TRIED_SITES:
            return False
        configs = all_configurations(self.n_sites).to(self.flips.device)  # (2^N, N)
        return all(bool((self.off_diagonal(rows) <= 0).all()) for rows in configs.split(4_096))

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

    @cached_property
    def conserves_magnetisation(self) -> bool:
        """Whether sum_i sz_i (the number of 1 bits) commutes with H.

        Here: whether each element that is not zero flips as many 1 bits as 0 bits, in all
        configurations of up to 8 sites, else in some hundred random ones.
        """
        configs = probing_configurations(self.n_sites).to(self.flips.device)  # (B, N)
        signs = 1 - 2 * configs.to(torch.float64)
        gains = signs @ self.flips.to(torch.float64).T  # (B, G) of 1 bits
        elements = self.off_diagonal(configs).abs()  # (B, G)
        floor = ROUNDING * elements.max() if elements.numel() else 0.0
        return not bool(((elements > floor) & (gains != 0)).any())

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
        name = type(self).__name__
        raise NotImplementedError(
            f"{name} does not say its Pauli strings; define {name}.pauli_terms"
        )

    def has_symmetry(self, permutation: Tensor) -> bool | None:
        """Whether s -> s[:, permutation] leaves U H U as it is; None: the class does not know.

        For classes whose couplings say it faster than their Pauli strings do.
        """
        return None

    def describe(self) -> str:
        """One line for people: the system, its lattice and its couplings.

        Here: the parameters of the constructor that are attributes of the same names.
        """
        names = [n for n in inspect.signature(type(self)).parameters if n in vars(self)]
        parts = [_described(n, vars(self)[n]) for n in names if vars(self)[n] is not None]
        return f"{type(self).__name__}({', '.join(parts or [f'{self.n_sites} sites'])})"

    def __repr__(self) -> str:
        return self.describe()

    def to(self, device: torch.device | str) -> Self:
        """The same Hamiltonian with its tensors on `device`; this one stays as it is."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved


def _described(name: str, value: Any) -> str:
    """'J=0.5..2' of a parameter; the lattice without its name."""
    if isinstance(value, Lattice):
        return repr(value)
    if isinstance(value, Tensor):
        return f"{name}={summary(value.flatten())}"
    text = f"{value:.10g}" if isinstance(value, float) else repr(value)
    return f"{name}={text if len(text) <= 60 else text[:60] + '...'}"


def couplings(name: str, value: float | Sequence[float] | Tensor, count: int, per: str) -> Tensor:
    """(count,) float64 from one number or one per site (or bond), each 0 or of a size that allows
    squares.

    Raises ValueError naming the coupling, its value and what is allowed.
    """
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}; it must be a number or one per {per}") from None
    if numbers.dim() > 1 or (numbers.dim() == 1 and len(numbers) != count):
        shape = tuple(numbers.shape)
        raise ValueError(
            f"{name} has shape {shape}; it must be a number or one per {per} ({count})"
        )
    for bad in numbers[~torch.isfinite(numbers)]:
        raise ValueError(f"{name} contains {bad.item()}; every coupling must be finite")
    sizes = numbers.abs()
    for bad in numbers[(sizes != 0) & ((sizes < WEAKEST) | (sizes > STRONGEST))]:
        raise ValueError(
            f"{name} contains {bad.item():g}; it must be 0 or of a size from {WEAKEST:g} to "
            f"{STRONGEST:g}; choose another unit"
        )
    return numbers.expand(count).clone()


def number_within(name: str, value: float, low: float, high: float) -> float:
    """value as a float. Raises ValueError for anything but a number from low to high."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number") from None
    if not low <= number <= high:
        raise ValueError(f"{name} is {number:g}; it must be >= {low:g} and <= {high:g}")
    return number


def summary(values: Tensor) -> str:
    """'1.5' for equal values, '0.5..2' for a range of them; what `describe` prints."""
    if len(values) == 0:
        return "none"
    low, high = float(values.min()), float(values.max())
    return f"{low:.10g}" if low == high else f"{low:.10g}..{high:.10g}"
