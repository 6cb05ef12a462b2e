"""Matrices of spin systems from their formulas by Kronecker products: the oracle of these tests.

Shares no code with the package: sites, distances and couplings come in as plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.complex128]

PAULI: dict[str, Matrix] = {
    "I": np.array([[1, 0], [0, 1]], dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]], dtype=complex),
    "Z": np.array([[1, 0], [0, -1]], dtype=complex),
}


def string(n_sites: int, letters: Mapping[int, str]) -> Matrix:
    """Product of Pauli matrices, site 0 leftmost in the Kronecker product."""
    return reduce(np.kron, [PAULI[letters.get(i, "I")] for i in range(n_sites)])


def number(n_sites: int, site: int) -> Matrix:
    """n_i, the projector on bit 1."""
    return (np.eye(2**n_sites) - string(n_sites, {site: "Z"})) / 2


def rydberg(
    sites: NDArray[np.float64], V: float, delta: Sequence[float], Omega: Sequence[float]
) -> Matrix:
    """-Omega_i/2 sx_i - delta_i n_i + V / r_ij^6 n_i n_j, open boundaries, all pairs."""
    n = len(sites)
    matrix = np.zeros((2**n, 2**n), dtype=complex)
    for i in range(n):
        matrix += -Omega[i] / 2 * string(n, {i: "X"}) - delta[i] * number(n, i)
        for j in range(i):
            distance = np.sqrt(((sites[i] - sites[j]) ** 2).sum())
            matrix += V / distance**6 * number(n, i) @ number(n, j)
    return matrix


def ising(n: int, bonds: Sequence[Sequence[int]], J: Sequence[float], h: Sequence[float]) -> Matrix:
    """-J_ij sz_i sz_j on the bonds, -h_i sx_i."""
    matrix = sum((-h[i] * string(n, {i: "X"}) for i in range(n)), np.zeros((2**n, 2**n), complex))
    for (i, j), strength in zip(bonds, J, strict=True):
        matrix += -strength * string(n, {i: "Z", j: "Z"})
    return matrix


def exchange(
    n: int,
    bonds: Sequence[Sequence[int]],
    Jxy: Sequence[float],
    Jz: Sequence[float],
    h: Sequence[float],
) -> Matrix:
    """Jxy (sx sx + sy sy) + Jz sz sz on the bonds, -h_i sz_i."""
    matrix = sum((-h[i] * string(n, {i: "Z"}) for i in range(n)), np.zeros((2**n, 2**n), complex))
    for (i, j), xy, z in zip(bonds, Jxy, Jz, strict=True):
        matrix += xy * (string(n, {i: "X", j: "X"}) + string(n, {i: "Y", j: "Y"}))
        matrix += z * string(n, {i: "Z", j: "Z"})
    return matrix


def pauli_sum(n: int, terms: Sequence[tuple[float, Mapping[int, str]]]) -> Matrix:
    """sum_t c_t P_t."""
    matrix = np.zeros((2**n, 2**n), dtype=complex)
    for coefficient, letters in terms:
        matrix += coefficient * string(n, letters)
    return matrix
