"""Exchange between spins 1/2: the XXZ, Heisenberg and J1-J2 models on any lattice.

    XXZ         H = sum_<ij> J_ij (sx_i sx_j + sy_i sy_j + Delta_ij sz_i sz_j) - sum_i h_i sz_i
    Heisenberg  H = sum_<ij> J_ij s_i . s_j - sum_i h_i sz_i
    J1-J2       H = J1 sum_<ij> s_i . s_j + J2 sum_<<ij>> s_i . s_j

Pauli matrices (not spins 1/2: s . s = 4 S . S, NetKet's `Heisenberg`); J > 0 is
antiferromagnetic. <ij> are the pairs at the smallest distance of the lattice, <<ij>> those at the
second smallest (lattice.bonds(1) and bonds(2), each pair once in that order; a distance is the
shortest over periodic images, so a pair is in one shell only and a ring of two has one bond).
Basis: bit 0 has sz = +1. Energies in the unit of J.

Exchange flips two antiparallel spins, <01|H|10> = 2 J_ij, and so keeps the magnetisation.

Marshall's sign rule (Proc. R. Soc. A 232, 48 (1955)): on a lattice of two sublattices, with every
nearest-neighbour bond from one to the other, the rotation by pi about z of one of them,
U = prod_{i in B} sz_i, turns sx and sy around there, so that

    sx_i sx_j + sy_i sy_j  ->  -(sx_i sx_j + sy_i sy_j)    on bonds between the sublattices

and nothing else changes (`Hamiltonian.rotated` says what U leaves alone). The rotated
antiferromagnet without second neighbours has no positive off-diagonal element, so its ground state
is positive. Where bonds of both signs allow such a rotation of other sites (`rotation.py`: round
every loop an even number of them is antiferromagnetic), that one is taken instead.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Coupling, Hamiltonian, PauliTerm, couplings
from hamiltonians.lattices.lattice import Lattice, checked_lattice
from hamiltonians.rotation import rotation_for

Marshall = Literal["auto", True, False]


class Exchange(Hamiltonian):
    """sum_b Jxy_b (sx sx + sy sy) + Jz_b sz sz - sum_i h_i sz_i. Build a final class below.

    Args:
        J: coupling of neighbours, +J s.s in Pauli matrices, > 0 is antiferromagnetic, a number or
            one per bond.
        h: field along z, -h sz, a number or one per site.
        marshall: Marshall's sign rule, a rotation that turns sx and sy around on one of two
            sublattices: true, false, or auto (the sites whose rotation leaves no positive
            off-diagonal element; else one of two sublattices where J, J1 sums to > 0). Levels and
            sz stay as they are.

    Bonds are in the order of lattice.bonds(). With "auto" and no sites that leave no positive
    element, rotating a sublattice lowers the sum of the positive ones.

    Attributes:
        bonds: (n_bonds, 2) int64, each pair of sites once.
        Jxy: (n_bonds,) float64 of U H U.
        Jz: (n_bonds,) float64.
        h: (N,) float64.

    Raises ValueError for couplings that are not one per bond or site, not finite, or of a size
    outside 1e-30 .. 1e30, and for marshall=True where the nearest neighbours form odd loops
    (triangular, kagome, odd rings).
    """

    def __init__(
        self,
        lattice: Lattice,
        bonds: Tensor,  # (n_bonds, 2)
        Jxy: Tensor,  # (n_bonds,)
        Jz: Tensor,  # (n_bonds,)
        h: Tensor,  # (N,)
        marshall: Marshall,
    ) -> None:
        self.lattice = checked_lattice(type(self).__name__, lattice)
        self.n_sites = lattice.n_sites
        self.bonds, self.Jz, self.h = bonds, Jz, h
        self.rotated = _rotation(type(self).__name__, lattice, bonds, Jxy, marshall)  # (N,)
        self._bond_signs = self.x_signs[bonds].prod(dim=1)  # (n_bonds,)
        self.Jxy = self._bond_signs * Jxy
        flipping = self.Jxy != 0
        self._pairs = bonds[flipping]  # (G, 2)
        self._elements = 2 * self.Jxy[flipping]  # (G,)
        self.flips = torch.zeros((len(self._pairs), self.n_sites), dtype=torch.bool)  # (G, N)
        self.flips.scatter_(1, self._pairs, True)

    def diagonal(self, configs: Tensor) -> Tensor:
        antiparallel = configs[:, self.bonds[:, 0]] ^ configs[:, self.bonds[:, 1]]  # (B, n_bonds)
        exchange = self.Jz.sum() - 2 * (antiparallel.to(torch.float64) @ self.Jz)  # (B,)
        return exchange - self.h.sum() + 2 * (configs.to(torch.float64) @ self.h)  # (B,)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        antiparallel = configs[:, self._pairs[:, 0]] ^ configs[:, self._pairs[:, 1]]  # (B, G)
        return torch.where(antiparallel, self._elements, 0.0)  # (B, G)

    @property
    def diagonal_rounding(self) -> float:
        """2^-52 (sum |Jz| + sum |h|): bonds and fields may cancel."""
        return 2**-52 * float(self.Jz.abs().sum() + self.h.abs().sum())

    @property
    def infinite_temperature_energy(self) -> float:
        """0: every term is traceless."""
        return 0.0

    @cached_property
    def is_stoquastic(self) -> bool:
        return bool((self._elements <= 0).all())

    @cached_property
    def conserves_magnetisation(self) -> bool:
        return True

    @property
    def marshall(self) -> bool:
        """Whether any site is rotated."""
        return bool(self.rotated.any())

    def pauli_terms(self) -> list[PauliTerm]:
        terms: list[PauliTerm] = [(-float(h), {i: "Z"}) for i, h in enumerate(self.h)]
        Jxy = self._bond_signs * self.Jxy  # (n_bonds,) as they were given
        strengths = zip(self.bonds.tolist(), Jxy.tolist(), self.Jz.tolist(), strict=True)
        for (i, j), xy, z in strengths:
            terms += [(xy, {i: "X", j: "X"}), (xy, {i: "Y", j: "Y"}), (z, {i: "Z", j: "Z"})]
        return terms

    def describe(self) -> str:
        return super().describe()[:-1] + (", Marshall rotated)" if self.marshall else ")")


@final
class XXZ(Exchange, kind="xxz"):
    """Anisotropic exchange of nearest neighbours (formula at the head of this file).

    Args:
        lattice: its nearest neighbours are the bonds.
        J: coupling of neighbours, J (sx sx + sy sy + Delta sz sz) in Pauli matrices, > 0 is
            antiferromagnetic, a number or one per bond.
        Delta: anisotropy of sz sz, a number or one per bond. 1: Heisenberg, 0: XY.
    """

    def __init__(
        self,
        lattice: Lattice,
        J: Coupling = 1.0,
        Delta: Coupling = 1.0,
        h: Coupling = 0.0,
        *,
        marshall: Marshall = "auto",
    ) -> None:
        bonds = lattice.bonds()  # (n_bonds, 2)
        self.J = couplings("XXZ: J", J, len(bonds), "bond")  # (n_bonds,)
        self.Delta = couplings("XXZ: Delta", Delta, len(bonds), "bond")  # (n_bonds,)
        field = couplings("XXZ: h", h, lattice.n_sites, "site")  # (N,)
        super().__init__(lattice, bonds, self.J, self.J * self.Delta, field, marshall)


@final
class Heisenberg(Exchange, kind="heisenberg"):
    """Isotropic exchange of nearest neighbours: XXZ with Delta = 1."""

    def __init__(
        self,
        lattice: Lattice,
        J: Coupling = 1.0,
        h: Coupling = 0.0,
        *,
        marshall: Marshall = "auto",
    ) -> None:
        bonds = lattice.bonds()  # (n_bonds, 2)
        self.J = couplings("Heisenberg: J", J, len(bonds), "bond")  # (n_bonds,)
        field = couplings("Heisenberg: h", h, lattice.n_sites, "site")  # (N,)
        super().__init__(lattice, bonds, self.J, self.J, field, marshall)


@final
class J1J2(Exchange, kind="j1j2"):
    """Isotropic exchange of nearest and next-nearest neighbours.

    The rotation leaves second neighbours on one sublattice alone: with J2 > 0 the model is not
    stoquastic, and the sign rule is no longer exact (how slowly it fails on the square lattice:
    Richter, Ivanov and Retzlaff, Europhys. Lett. 25, 545 (1994)).

    Args:
        lattice: bonds(1) and bonds(2) are the bonds; it needs two distances.
        J1: coupling of nearest neighbours, +J1 s.s in Pauli matrices, a number or one per bond.
        J2: coupling of next-nearest neighbours, +J2 s.s, a number or one per bond.

    Raises ValueError as `Exchange` does, and for a lattice with one distance between its sites.
    """

    def __init__(
        self,
        lattice: Lattice,
        J1: Coupling = 1.0,
        J2: Coupling = 0.5,
        *,
        marshall: Marshall = "auto",
    ) -> None:
        near, far = lattice.bonds(1), lattice.bonds(2)  # (n_1, 2), (n_2, 2)
        self.J1 = couplings("J1J2: J1", J1, len(near), "bond")  # (n_1,)
        self.J2 = couplings("J1J2: J2", J2, len(far), "bond")  # (n_2,)
        J = torch.cat([self.J1, self.J2])  # (n_bonds,)
        no_field = torch.zeros(lattice.n_sites, dtype=torch.float64)
        super().__init__(lattice, torch.cat([near, far]), J, J, no_field, marshall)


def _rotation(name: str, lattice: Lattice, bonds: Tensor, J: Tensor, marshall: Marshall) -> Tensor:
    """(N,) bool: the sites to rotate."""
    if not (isinstance(marshall, bool) or marshall == "auto"):
        raise ValueError(f"{name}: marshall is {marshall!r}; it must be True, False or 'auto'")
    nothing = torch.zeros(lattice.n_sites, dtype=torch.bool)
    if marshall is False:
        return nothing
    if marshall == "auto":
        pairs = torch.zeros((len(bonds), lattice.n_sites), dtype=torch.bool)  # (n_bonds, N)
        pairs.scatter_(1, bonds, True)
        exact = rotation_for(pairs[J != 0], J[J != 0] > 0)
        if exact is not None:
            return exact
    colours = lattice.bipartition()  # (N,)
    if colours is None:
        if marshall == "auto":
            return nothing
        raise ValueError(
            f"{name}: marshall is True, but the nearest neighbours of {lattice!r} form odd loops, "
            "so there are no two sublattices; use marshall=False"
        )
    if marshall == "auto" and not J[: len(lattice.bonds())].sum() > 0:  # nearest ones come first
        return nothing
    return colours < 0
