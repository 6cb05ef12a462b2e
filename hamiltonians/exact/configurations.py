"""The configurations that exact diagonalisation lists, in order, and their numbers.

Site 0 is the most significant bit. All 2^N of them, or, where H keeps the number of 1 bits, the
C(N, n_up) with n_up of them: a sector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.symmetry_group import WORD_BITS, bit_words

CHUNK = 2**16
"""Configurations handled at a time."""


def basis(n_sites: int, start: int = 0, stop: int | None = None) -> Tensor:
    """(stop - start, N) bool: the configurations numbered start..stop-1, by default all 2^N."""
    return bits(torch.arange(start, 2**n_sites if stop is None else stop), n_sites)


def sector_basis(n_sites: int, n_up: int) -> Tensor:
    """(D,) int64: the numbers of the configurations with n_up 1 bits, ascending, D = C(N, n_up)."""
    rows = [torch.zeros(1, dtype=torch.int64)]  # of the last sites: row u holds those with u ones
    for site in range(n_sites):
        longer = [rows[0]]
        for u in range(1, min(site + 1, n_up) + 1):
            without = [rows[u]] if u < len(rows) else []
            longer.append(torch.cat([*without, rows[u - 1] + (1 << site)]))
        rows = longer
    return rows[n_up]


def sector_size(H: Hamiltonian, n_up: int | None) -> tuple[int, str]:
    """(D, ' with n_up up' for messages). Raises ValueError unless H has such a sector."""
    if n_up is None:
        return 2**H.n_sites, ""
    if isinstance(n_up, bool) or not isinstance(n_up, int) or not 0 <= n_up <= H.n_sites:
        raise ValueError(
            f"exact diagonalisation: n_up is {n_up!r}; it must be a whole number in 0..{H.n_sites}"
        )
    if H.n_sites > WORD_BITS:
        raise ValueError(f"exact diagonalisation: {H.n_sites} sites; with n_up at most {WORD_BITS}")
    if not H.conserves_magnetisation:
        raise ValueError(
            f"exact diagonalisation: n_up is {n_up}, but {H!r} does not conserve the number of "
            "1 bits; leave n_up out"
        )
    return math.comb(H.n_sites, n_up), f" with {n_up} up"


def chunks(
    n_sites: int, n_up: int | None = None, *, size: int = CHUNK
) -> Iterator[tuple[int, Tensor]]:
    """(place of the first, configurations (B, N)) through the whole basis or sector in order."""
    if n_up is None:
        for start in range(0, 2**n_sites, size):
            yield start, basis(n_sites, start, min(start + size, 2**n_sites))
        return
    codes = sector_basis(n_sites, n_up)  # (D,)
    for start in range(0, len(codes), size):
        yield start, bits(codes[start : start + size], n_sites)


def bits(numbers: Tensor, n_sites: int) -> Tensor:
    """(B, N) bool: the configurations with these numbers (B,)."""
    places = torch.arange(n_sites - 1, -1, -1, device=numbers.device)  # (N,)
    return (numbers[:, None] >> places & 1).to(torch.bool)  # (B, N)


def flip_numbers(H: Hamiltonian) -> Tensor:
    """(G,) int64: each flip pattern as a number; s xor flip is the xor of their numbers."""
    return bit_words(H.flips)[:, 0]


def raised_ones(configs: Tensor, flips: Tensor) -> Tensor:
    """(B, G) by how much each flip raises the number of 1 bits of configs (B, N)."""
    flipped = flips.to(torch.float32)  # (G, N)
    return (1 - 2 * configs.to(torch.float32)) @ flipped.T
