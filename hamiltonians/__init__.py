"""Spin systems: lattices, Hamiltonians, exact diagonalisation. Knows no neural network."""

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.ising import TransverseFieldIsing
from hamiltonians.netket import from_netket, to_netket
from hamiltonians.pauli import PauliSum
from hamiltonians.rydberg import Rydberg

__all__ = [
    "Hamiltonian",
    "PauliSum",
    "Rydberg",
    "TransverseFieldIsing",
    "from_netket",
    "to_netket",
]
