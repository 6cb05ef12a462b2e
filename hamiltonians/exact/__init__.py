"""Exact diagonalisation: levels, the ground state and averages in it, matrices, bases."""

from hamiltonians.exact.configurations import basis, chunks, sector_basis
from hamiltonians.exact.diagonalisation import ground_state
from hamiltonians.exact.eigenstates import GroundState
from hamiltonians.exact.matrix import dense_matrix, sparse_matrix
from hamiltonians.exact.memory import memory_estimate, memory_needed
from hamiltonians.exact.product import Product, StoredProduct

__all__ = [
    "GroundState",
    "Product",
    "StoredProduct",
    "basis",
    "chunks",
    "dense_matrix",
    "ground_state",
    "memory_estimate",
    "memory_needed",
    "sector_basis",
    "sparse_matrix",
]
