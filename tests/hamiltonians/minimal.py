"""A Hamiltonian with the abstract members alone: what a user writes at least."""

from __future__ import annotations

from torch import Tensor

from hamiltonians import Hamiltonian


class Minimal(Hamiltonian):
    """The matrix elements of another one and nothing else: no strings, no lattice, no flags."""

    def __init__(self, other: Hamiltonian) -> None:
        self.n_sites = other.n_sites
        self.flips = other.flips
        self.other = other

    def diagonal(self, configs: Tensor) -> Tensor:
        return self.other.diagonal(configs)

    def off_diagonal(self, configs: Tensor) -> Tensor:
        return self.other.off_diagonal(configs)

    @property
    def infinite_temperature_energy(self) -> float:
        return self.other.infinite_temperature_energy
