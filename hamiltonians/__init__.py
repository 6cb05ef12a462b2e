"""Spin systems: lattices, Hamiltonians, exact diagonalisation. Knows no neural network."""

from hamiltonians.bridges.netket import from_netket, to_netket
from hamiltonians.bridges.registers import from_bloqade, from_pulser
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.heisenberg import J1J2, XXZ, Heisenberg
from hamiltonians.ising import TransverseFieldIsing
from hamiltonians.lattices.lattice import (
    Chain,
    Grid,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)
from hamiltonians.pauli import PauliSum
from hamiltonians.rydberg import Rydberg

__all__ = [
    "J1J2",
    "XXZ",
    "Chain",
    "Grid",
    "Hamiltonian",
    "Heisenberg",
    "Honeycomb",
    "Kagome",
    "Lattice",
    "PauliSum",
    "Positions",
    "Rydberg",
    "Square",
    "TransverseFieldIsing",
    "Triangular",
    "from_bloqade",
    "from_netket",
    "from_pulser",
    "to_netket",
]
