"""Lanczos' recursion for the lowest eigenstate, in the memory of a few vectors.

Right where the whole spectrum is not much wider than the flips; `davidson.py` serves the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

MAX_STEPS, MAX_ROUNDS = 400, 25
"""Lanczos steps until the recursion begins anew from the best state so far, and how often."""

CHECK_EVERY = 5
"""Steps between looks at the residual."""

VECTORS = 6
"""Memory besides the k states, in vectors: first, two of the recursion, diagonal, the result, a
temporary."""


class LinearMap(Protocol):
    """psi -> H psi for psi (D,), and the diagonal (D,) of H."""

    diagonal: Tensor

    def __call__(self, psi: Tensor) -> Tensor:
        """H psi (D,)."""
        ...

    def add(self, psi: Tensor, result: Tensor) -> None:
        """result += H psi."""
        ...


def lanczos(product: LinearMap, first: Tensor, lower: Tensor, tol: float, result: Tensor) -> None:
    """The lowest state orthogonal to `lower` (k, D) into `result` (D,), begun from `first` (D,).

    The recursion runs without reorthogonalisation until the lowest Ritz state's residual,
    |last beta times the state's last component|, is below tol |E|, and a second time to sum the
    Ritz state up; until then only the levels at the other end may appear repeatedly.
    Cullum & Willoughby, Lanczos Algorithms for Large Symmetric Eigenvalue Computations (1985).
    """
    for _ in range(MAX_ROUNDS):
        orthogonalise(first, lower)
        first /= first.norm()
        weights, converged = _ritz_state(product, first, lower, tol)
        result.zero_()
        for weight, (vector, _, _) in zip(weights, _krylov(product, first, lower), strict=False):
            result.add_(vector, alpha=weight)
        orthogonalise(result, lower)
        result /= result.norm()
        if converged:
            return
        first.copy_(result)
    raise ArithmeticError(
        f"exact diagonalisation: no convergence in {MAX_ROUNDS * MAX_STEPS} Lanczos steps"
    )


def _ritz_state(
    product: LinearMap, first: Tensor, lower: Tensor, tol: float
) -> tuple[list[float], bool]:
    """Components of the lowest Ritz state in the Krylov vectors, and whether it has converged."""
    diagonal: list[float] = []
    beside: list[float] = []
    for _, alpha, beta in _krylov(product, first, lower):
        diagonal.append(alpha)
        beside.append(beta)
        norm = max(map(abs, diagonal)) + 2 * max(beside)
        ended = beta <= 1e-13 * norm  # an invariant space
        if len(diagonal) % CHECK_EVERY and not ended:
            continue
        energies, states = eigh_tridiagonal(
            diagonal, beside[:-1], select="i", select_range=(0, 0)
        )  # (1,), (steps, 1)
        residual = beta * abs(states[-1, 0])
        converged = ended or residual <= tol * max(abs(energies[0]), 1e-6 * norm)
        if converged or len(diagonal) >= MAX_STEPS:
            break
    return states[:, 0].tolist(), bool(converged)


def _krylov(
    product: LinearMap, first: Tensor, lower: Tensor
) -> Iterator[tuple[Tensor, float, float]]:
    """(v_j, alpha_j, beta_j), v_0 = first and beta_j v_{j+1} = H v_j - alpha_j v_j - beta v_{j-1}.

    All orthogonal to `lower` (k, D). v_j (D,) is overwritten by the next but one.
    """
    current, other, beta = first.clone(), torch.zeros_like(first), 0.0
    while True:
        other.mul_(-beta)
        product.add(current, other)
        alpha = float(torch.vdot(current, other).real)
        other.sub_(current, alpha=alpha)
        orthogonalise(other, lower)
        beta = float(other.norm())
        yield current, alpha, beta
        other.div_(beta)
        current, other = other, current


def orthogonalise(vector: Tensor, states: Tensor) -> None:
    """Takes the components along the rows of `states` (k, D), orthonormal, out of `vector` (D,)."""
    for state in states:
        vector.sub_(state, alpha=torch.vdot(state, vector).item())
