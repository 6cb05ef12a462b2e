"""The Ising model in a transverse field.

    H = -sum_<ij> J_ij sz_i sz_j - sum_i h_i sx_i

Pauli matrices (not spins 1/2); each nearest-neighbour bond once, in the order of lattice.bonds();
J > 0 is ferromagnetic. Basis: bit 0 has sz = +1. Energies in the unit of J.
On an open or periodic chain it is solved by free fermions: Pfeuty, Ann. Phys. 57, 79 (1970).
NetKet's `Ising` has the other sign of J. Sites with h_i < 0 are rotated (`Hamiltonian.rotated`), so
that the flips have the elements -|h_i|.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Coupling, Hamiltonian, PauliTerm, couplings
from hamiltonians.lattices.lattice import Lattice, checked_lattice


@final
class TransverseFieldIsing(Hamiltonian, kind="tfim"):
    """Transverse-field Ising model on a lattice (formula at the head of this file).

    Args:
        lattice: its nearest neighbours are the bonds.
        J: coupling of neighbours, -J sz sz, > 0 is ferromagnetic, a number or one per bond.
        h: transverse field, -h sx, a number or one per site.

    Bonds are in the order of lattice.bonds(). Raises ValueError for couplings that are not one per
    bond or site, not finite, or of a size outside 1e-30 .. 1e30.
    """

    def __init__(self, lattice: Lattice, J: Coupling = 1.0, h: Coupling = 1.0) -> None:
        self.lattice = checked_lattice("TransverseFieldIsing", lattice)
        self.n_sites = lattice.n_sites
        self.bonds = lattice.bonds()  # (n_bonds, 2)
        self.J = couplings("TransverseFieldIsing: J", J, len(self.bonds), "bond")  # (n_bonds,)
        self.h = couplings("TransverseFieldIsing: h", h, self.n_sites, "site")  # (N,)
        driven = self.h != 0
        self.flips = torch.eye(self.n_sites, dtype=torch.bool)[driven]  # (G, N)
        self._elements = -self.h[driven].abs()  # (G,)
        self.rotated = self.h < 0  # (N,)

    def diagonal(self, configs: Tensor) -> Tensor:
        domain_walls = configs[:, self.bonds[:, 0]] ^ configs[:, self.bonds[:, 1]]  # (B, n_bonds)
        return 2 * (domain_walls.to(torch.float64) @ self.J) - self.J.sum()  # (B,)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        return self._elements.expand(len(configs), -1)  # (B, G)

    @property
    def diagonal_rounding(self) -> float:
        """2^-52 sum |J|: bonds of both signs may cancel."""
        return 2**-52 * float(self.J.abs().sum())

    @property
    def constant_off_diagonal(self) -> Tensor:
        return self._elements

    @property
    def infinite_temperature_energy(self) -> float:
        """0: every term is traceless."""
        return 0.0

    def pauli_terms(self) -> list[PauliTerm]:
        terms: list[PauliTerm] = [(-float(h), {i: "X"}) for i, h in enumerate(self.h)]
        for (i, j), strength in zip(self.bonds.tolist(), self.J.tolist(), strict=True):
            terms.append((-strength, {i: "Z", j: "Z"}))
        return terms
