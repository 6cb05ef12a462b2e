"""Spin systems: lattices, Hamiltonians, exact diagonalisation. Knows no neural network."""

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.ising import TransverseFieldIsing
from hamiltonians.rydberg import Rydberg

__all__ = ["Hamiltonian", "Rydberg", "TransverseFieldIsing"]
