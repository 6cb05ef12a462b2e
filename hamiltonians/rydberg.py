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
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian, PauliTerm, couplings, summary
from hamiltonians.lattices.lattice import Lattice, Positions

PerSite = float | Sequence[float] | Tensor


@final
class Rydberg(Hamiltonian):
    """Driven Rydberg atoms on a lattice (formula at the head of this file).

    Args:
        lattice: where the atoms are.
        V: interaction at distance 1, energy times length^6; this or Rb, not both.
        delta: detuning, a number or one per site. Default 1.
        Omega: Rabi frequency, a number or one per site. Default 1. Sites with Omega < 0 are
            rotated (hamiltonian.py): U H U has |Omega| there.
        Rb: blockade radius, in the lattice's unit; V = |Omega| Rb^6 with one |Omega|, not 0.
        cutoff: pairs farther apart than this do not interact. Default: all pairs do.

    Raises ValueError for none or both of V and Rb, couplings that are not finite or not one per
    site, Rb with an |Omega| that varies or is 0, a cutoff below the smallest distance, atoms so
    close that V / r^6 overflows.
    """

    def __init__(
        self,
        lattice: Lattice,
        V: float | None = None,
        delta: PerSite = 1.0,
        Omega: PerSite = 1.0,
        *,
        Rb: float | None = None,
        cutoff: float | None = None,
    ) -> None:
        self.lattice = lattice
        self.n_sites = lattice.n_sites
        self.cutoff = cutoff
        self.delta = couplings("Rydberg: delta", delta, self.n_sites, "site")  # (N,)
        self.Omega = couplings("Rydberg: Omega", Omega, self.n_sites, "site")  # (N,)
        self.V = _interaction_strength(V, Rb, self.Omega)
        self.interactions = _van_der_waals(lattice, self.V, cutoff)  # (N, N), zero diagonal
        self._quadratic = self.interactions.triu() - torch.diag(self.delta)  # n^2 = n
        driven = self.Omega != 0
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)[driven]  # (G, N)
        self._elements = -self.Omega[driven].abs() / 2  # (G,)
        self.rotated = self.Omega < 0  # (N,)

    @classmethod
    def from_physical(
        cls,
        positions_um: Tensor | np.ndarray | Sequence[Sequence[float]],
        C6: float,
        Omega: PerSite,
        delta: PerSite,
        *,
        cutoff: float | None = None,
    ) -> Self:
        """Atoms at positions_um (N, 2 or 3) in micrometres; energies come out in rad/us.

        C6 in rad/us um^6 (87Rb, 70S: 5 420 158.53), Omega and delta in rad/us, cutoff in um.
        """
        return cls(Positions(positions_um), C6, delta, Omega, cutoff=cutoff)

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

    @property
    def is_complex(self) -> bool:
        return False

    @property
    def is_stoquastic(self) -> bool:
        """True: sites with Omega < 0 are rotated."""
        return True

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

    def describe(self) -> str:
        cutoff = "" if self.cutoff is None else f", cutoff={self.cutoff:g}"
        return (
            f"Rydberg({self.lattice!r}, V={self.V:.10g}, delta={summary(self.delta)}, "
            f"Omega={summary(self.Omega)}{cutoff})"
        )


def _interaction_strength(V: float | None, Rb: float | None, Omega: Tensor) -> float:
    """V itself or |Omega| Rb^6."""
    if (V is None) == (Rb is None):
        raise ValueError(f"Rydberg: V is {V} and Rb is {Rb}; give exactly one of them")
    if V is not None:
        return float(couplings("Rydberg: V", V, 1, "Hamiltonian"))
    assert Rb is not None
    radius = float(couplings("Rydberg: Rb", Rb, 1, "Hamiltonian"))
    if radius < 0:
        raise ValueError(f"Rydberg: Rb is {Rb}; it must be 0 or more")
    drive = Omega.abs()
    if not (drive == drive[0]).all() or drive[0] == 0:
        raise ValueError(
            f"Rydberg: Rb needs one |Omega| above 0 for V = |Omega| Rb^6, but Omega is "
            f"{summary(Omega)}; give V instead"
        )
    return float(drive[0]) * radius**6


def _van_der_waals(lattice: Lattice, V: float, cutoff: float | None) -> Tensor:
    """(N, N) float64, V / r_ij^6 with a zero diagonal and zeros beyond the cut-off."""
    if cutoff is not None and not cutoff > 0:
        raise ValueError(f"Rydberg: cutoff is {cutoff}; it must be a distance above 0")
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
