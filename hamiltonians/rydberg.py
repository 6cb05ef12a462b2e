"""Rydberg atoms with van der Waals interactions.

    H = -sum_i Omega_i / 2 sx_i - sum_i delta_i n_i + sum_{i<j} V_ij n_i n_j,   V_ij = V / r_ij^6

Basis: n = 1 is the excited atom, sigma^z = 1 - 2 n. Each pair once; all pairs, however far, unless
a cut-off is asked for; periodic directions use the shortest image of a pair. r in the lattice's
unit of length (lattice constants), Omega, delta and V in one unit of energy (hbar = 1).
The blockade radius is where the interaction equals the drive: V = |Omega| Rb^6.
The sign of a drive is the phase of its atom's excited state; atoms with Omega < 0 are rotated, so
that the flips have the elements -|Omega_i| / 2 (`Hamiltonian.rotated`).

Sources: Bernien et al., Nature 551, 579 (2017) (the Hamiltonian); Sprague and Czischek,
Commun. Phys. 7, 90 (2024) (these units and signs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final, Self, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.hamiltonian import (
    Coupling,
    Hamiltonian,
    Number,
    PauliTerm,
    couplings,
    number_within,
    summary,
)
from hamiltonians.lattices.lattice import Lattice, Positions, checked_lattice

DEFAULT_V: Final = 7.0
"""Where none of V, Rb and C6 says otherwise."""


@final
class Rydberg(Hamiltonian, kind="rydberg"):
    """Driven Rydberg atoms on a lattice (formula at the head of this file).

    Args:
        lattice: where the atoms are.
        V: interaction of nearest neighbours, V_ij = V / r_ij^6; 7 unless Rb or C6 is given.
        delta: detuning, a number or one per site.
        Omega: Rabi frequency, a number or one per site.
        Rb: blockade radius in lattice constants instead of V: V = |Omega| Rb^6 with one |Omega|.
        C6: physical units instead of V: V_ij = C6 / r_ij^6 with C6 in rad/us um^6 (87Rb 70S:
            5420158.53); Omega and delta in rad/us, and so all energies; positions in um.
        spacing: lattice constant in um, for C6 on a lattice other than positions.
        cutoff: distance in lattice constants beyond which V_ij is dropped; null keeps all pairs.

    Lengths are in lattice constants, those of `Positions` in its own unit (um with C6).
    Raises ValueError for more than one of V, Rb and C6, numbers out of range or not one per site,
    Rb with an |Omega| that varies or is 0, C6 without its spacing, a cutoff below the smallest
    distance, atoms so close that V / r^6 overflows.
    """

    def __init__(
        self,
        lattice: Lattice,
        V: Number | None = None,
        delta: Coupling = 1.0,
        Omega: Coupling = 1.0,
        *,
        Rb: Annotated[float, "1e-5 .. 1e5"] | None = None,
        C6: Annotated[float, "1e-6 .. 1e15"] | None = None,
        spacing: Annotated[float, "1e-2 .. 1e4"] | None = None,
        cutoff: Annotated[float, "1e-6 .. 1e6"] | None = None,
    ) -> None:
        self.check_keys(V=V, Rb=Rb, C6=C6, spacing=spacing)
        self.lattice = checked_lattice("Rydberg", lattice)
        self.n_sites = lattice.n_sites
        if cutoff is not None:
            cutoff = number_within("Rydberg: cutoff", cutoff, 1e-6, 1e6)
        self.cutoff = cutoff
        self.delta = couplings("Rydberg: delta", delta, self.n_sites, "site")  # (N,)
        self.Omega = couplings("Rydberg: Omega", Omega, self.n_sites, "site")  # (N,)
        if Rb is not None:
            self.V = _blockading(Rb, self.Omega)
        elif C6 is not None:
            self.V = _from_physical(C6, spacing, lattice)
        else:
            self.V = float(couplings("Rydberg: V", DEFAULT_V if V is None else V, 1, "Hamiltonian"))
        self.interactions = _van_der_waals(lattice, self.V, self.cutoff)  # (N, N), zero diagonal
        self._quadratic = self.interactions.triu() - torch.diag(self.delta)  # n^2 = n
        driven = self.Omega != 0
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)[driven]  # (G, N)
        self._elements = -self.Omega[driven].abs() / 2  # (G,)
        self.rotated = self.Omega < 0  # (N,)

    @staticmethod
    def check_keys(*, V: object, Rb: object, C6: object, spacing: object, **_: object) -> None:
        """Raises ValueError for keys that do not go together."""
        strengths = {"V": V, "Rb": Rb, "C6": C6}
        several = [f"{key}={value}" for key, value in strengths.items() if value is not None]
        if len(several) > 1:
            raise ValueError(
                f"Rydberg: {' and '.join(several)}: give only one of V, Rb and C6; V = |Omega| Rb^6"
            )
        if spacing is not None and C6 is None:
            raise ValueError(f"Rydberg: spacing={spacing}: means something with C6 alone")

    @classmethod
    def from_physical(
        cls,
        positions_um: Tensor | np.ndarray | Sequence[Sequence[float]],
        C6: float,
        Omega: Coupling,
        delta: Coupling,
        *,
        cutoff: float | None = None,
    ) -> Self:
        """Atoms at positions_um (N, 2 or 3) in micrometres; energies come out in rad/us.

        C6 in rad/us um^6 (87Rb, 70S: 5 420 158.53), Omega and delta in rad/us, cutoff in um.
        """
        return cls(Positions(positions_um), None, delta, Omega, C6=C6, cutoff=cutoff)

    def diagonal(self, configs: Tensor) -> Tensor:
        n = configs.to(torch.float64)  # (B, N)
        return ((n @ self._quadratic) * n).sum(dim=1)  # (B,)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        return self._elements.expand(len(configs), -1)  # (B, G)

    @property
    def constant_off_diagonal(self) -> Tensor:
        return self._elements

    @property
    def infinite_temperature_energy(self) -> float:
        """sum_{i<j} V_ij / 4 - sum_i delta_i / 2."""
        return float(self.interactions.sum() / 8 - self.delta.sum() / 2)

    def has_symmetry(self, permutation: Tensor) -> bool:
        """Whether delta_i, |Omega_i| and V_ij are those of the images, up to 1e-9 of each."""
        row = permutation
        return (
            torch.allclose(self.delta[row], self.delta, rtol=1e-9, atol=0.0)
            and torch.allclose(self.Omega[row].abs(), self.Omega.abs(), rtol=1e-9, atol=0.0)
            and torch.allclose(
                self.interactions[row][:, row], self.interactions, rtol=1e-9, atol=0.0
            )
        )

    def pauli_terms(self) -> list[PauliTerm]:
        """With n = (1 - sz) / 2."""
        fields = self.delta / 2 - self.interactions.sum(dim=1) / 4  # (N,)
        terms: list[PauliTerm] = [(self.infinite_temperature_energy, {})]
        for i in range(self.n_sites):
            terms += [(-float(self.Omega[i]) / 2, {i: "X"}), (float(fields[i]), {i: "Z"})]
        for i, j in self.interactions.triu().nonzero().tolist():
            terms.append((float(self.interactions[i, j]) / 4, {i: "Z", j: "Z"}))
        return terms


def _blockading(Rb: float, Omega: Tensor) -> float:
    """V = |Omega| Rb^6, the interaction at distance 1 of atoms that block each other up to Rb."""
    radius = number_within("Rydberg: Rb", Rb, 1e-5, 1e5)
    drive = Omega.abs()
    if not (drive == drive[0]).all() or drive[0] == 0:
        raise ValueError(
            f"Rydberg: Rb needs one |Omega| above 0 for V = |Omega| Rb^6, but Omega is "
            f"{summary(Omega)}; give V instead"
        )
    return float(drive[0]) * radius**6


def _from_physical(C6: float, spacing: float | None, lattice: Lattice) -> float:
    """V = C6 / spacing^6 in rad/us; C6 itself where positions are in um already."""
    strength = number_within("Rydberg: C6", C6, 1e-6, 1e15)
    if isinstance(lattice, Positions):
        if spacing is not None:
            raise ValueError(
                f"Rydberg: spacing={spacing}: the positions of the lattice are in um already"
            )
        return strength
    if spacing is None:
        raise ValueError(f"Rydberg: C6={C6}: {lattice!r} needs spacing, its lattice constant in um")
    return strength / number_within("Rydberg: spacing", spacing, 1e-2, 1e4) ** 6


def _van_der_waals(lattice: Lattice, V: float, cutoff: float | None) -> Tensor:
    """(N, N) float64, V / r_ij^6 with a zero diagonal and zeros beyond the cut-off."""
    distances = lattice.distances().clone()
    distances.fill_diagonal_(torch.inf)
    smallest = float(distances.min())
    if cutoff is not None:
        reach = cutoff * (1 + lattice.tolerance)
        if reach < smallest < math.inf:
            raise ValueError(
                f"Rydberg: cutoff is {cutoff:g}, but the smallest distance is {smallest:.10g}, so "
                "no pair would interact; give a larger cutoff, or V=0"
            )
        distances[distances > reach] = torch.inf
    interactions = V / distances**6
    if not torch.isfinite(interactions.sum()):
        i, j = divmod(int(distances.argmin()), len(distances))
        raise ValueError(
            f"Rydberg: atoms {i} and {j} are {smallest:.3g} apart, so V / r^6 with V={V:g} is too "
            "large a number; move them apart, give a smaller V or leave one out"
        )
    return interactions
