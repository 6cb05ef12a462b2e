"""Memory that exact diagonalisation needs, known before any work."""

from __future__ import annotations

from hamiltonians.exact import lanczos
from hamiltonians.exact.configurations import sector_size
from hamiltonians.hamiltonian import Hamiltonian

LARGEST_SIZE = 2**1000
"""Larger numbers of configurations count as this many: they have to fit into a float."""


def memory_estimate(n_sites: int, k: int = 2) -> float:
    """Bytes of memory `ground_state` needs at least for a real Hamiltonian (twice if complex)."""
    return state_bytes(2**n_sites, k, False)


def memory_needed(H: Hamiltonian, k: int = 2, n_up: int | None = None) -> float:
    """Bytes of memory `ground_state(H, k, n_up=n_up)` needs at least; ValueError as there."""
    size, _ = sector_size(H, n_up)
    return state_bytes(size, k, H.is_complex)


def state_bytes(size: int, k: int, is_complex: bool, vectors: int = lanczos.VECTORS) -> float:
    return float(min(size, LARGEST_SIZE)) * (16 if is_complex else 8) * (k + vectors)


def check_memory(name: str, needed: float, max_memory_gb: float) -> None:
    """Raises ValueError unless it fits."""
    if needed > 1e9 * max_memory_gb:
        raise ValueError(
            f"exact diagonalisation of {name} needs {needed / 1e9:.3g} GB, "
            f"{max_memory_gb:g} GB are allowed"
        )
