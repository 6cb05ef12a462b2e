"""Spin systems: lattices, Hamiltonians, exact diagonalisation. Knows no neural network."""

from hamiltonians.bridges.netket import from_netket, to_netket
from hamiltonians.bridges.registers import from_bloqade, from_pulser
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.heisenberg import J1J2, XXZ, Heisenberg
from hamiltonians.ising import TransverseFieldIsing
from hamiltonians.pauli import PauliSum
from hamiltonians.rydberg import Rydberg

__all__ = [
    "J1J2",
    "XXZ",
    "Hamiltonian",
    "Heisenberg",
    "PauliSum",
    "Rydberg",
    "TransverseFieldIsing",
    "from_bloqade",
    "from_netket",
    "from_pulser",
    "to_netket",
]
