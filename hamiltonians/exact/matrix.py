"""The matrix of a Hamiltonian written out: dense for small systems, sparse for a stored product."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hamiltonians.exact.configurations import (
    chunks,
    flip_numbers,
    raised_ones,
    sector_basis,
    sector_size,
)
from hamiltonians.hamiltonian import Hamiltonian

Array = NDArray[np.float64] | NDArray[np.complex128]

MAX_DENSE_SITES = 14
"""Largest system `dense_matrix` writes out (2 GB)."""


def dense_matrix(H: Hamiltonian) -> Array:
    """(2^N, 2^N) the matrix of H, row and column numbered as the amplitudes.

    Raises ValueError above 14 sites.
    """
    if H.n_sites > MAX_DENSE_SITES:
        raise ValueError(
            f"dense_matrix: {H.n_sites} sites; at most {MAX_DENSE_SITES} are allowed "
            "(ground_state needs no matrix)"
        )
    H = H.to("cpu")
    size = 2**H.n_sites
    matrix = torch.zeros((size, size), dtype=torch.complex128 if H.is_complex else torch.float64)
    masks = flip_numbers(H)  # (G,)
    for start, configs in chunks(H.n_sites):
        rows = torch.arange(start, start + len(configs))  # (B,)
        matrix[rows, rows] = H.diagonal(configs).to(matrix.dtype)
        matrix[rows[:, None], rows[:, None] ^ masks] = H.off_diagonal(configs)  # distinct entries
    return matrix.numpy()


def sparse_matrix(H: Hamiltonian, n_up: int | None = None) -> csr_array:
    """(D, D) the matrix of H, or of its block between the configurations with n_up 1 bits.

    Raises ValueError where n_up is not in 0..N or H does not conserve it.
    """
    size, _ = sector_size(H, n_up)
    H = H.to("cpu")
    masks = flip_numbers(H)  # (G,)
    codes = torch.arange(size) if n_up is None else sector_basis(H.n_sites, n_up)  # (D,)
    rows, columns, values = [], [], []
    for start, configs in chunks(H.n_sites, n_up):
        here = torch.arange(start, start + len(configs))  # (B,)
        elements = H.off_diagonal(configs)  # (B, G)
        there = codes[here, None] ^ masks  # (B, G)
        acts = elements != 0
        if n_up is not None:  # elements that cancel up to rounding may lead out of the sector
            acts = acts & (raised_ones(configs, H.flips) == 0)
        rows += [here, here[:, None].expand_as(acts)[acts]]
        columns += [here, torch.searchsorted(codes, there[acts])]
        values += [H.diagonal(configs), elements[acts]]
    dtype = torch.complex128 if H.is_complex else torch.float64
    entries = torch.cat([value.to(dtype) for value in values]).numpy()
    places = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return csr_array((entries, places), shape=(size, size))


def matrix_bytes(H: Hamiltonian, size: int) -> int:
    """Of `sparse_matrix` while it is built: value, row and column of each entry, twice."""
    return 2 * size * (len(H.flips) + 1) * (32 if H.is_complex else 24)
