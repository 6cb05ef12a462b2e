"""Exact diagonalisation of any Hamiltonian here, for up to about 27 sites.

Lanczos' recursion (`lanczos.py`), and Davidson's method where the diagonal is far wider than the
flips (`davidson.py`), ask for products H psi (`product.py`) of vectors over all configurations, or
those of one sector (`configurations.py`); small systems are diagonalised as a matrix.

Memory is that of a few vectors of 2^N numbers (`memory.py`), and of a stored matrix: the Krylov
vectors are made a second time when the ground state is put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamiltonians.exact import davidson, lanczos
from hamiltonians.exact.configurations import chunks, raised_ones, sector_size
from hamiltonians.exact.eigenstates import GroundState
from hamiltonians.exact.matrix import Array, dense_matrix, sparse_matrix
from hamiltonians.exact.memory import check_memory, state_bytes
from hamiltonians.exact.product import Product, StoredProduct, product_of
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import positive_integer

Solver = Callable[["Product | StoredProduct", Tensor, Tensor, float, Tensor], None]
"""Puts the lowest state orthogonal to `lower` (k, D) into `result` (D,), begun from `first` (D,):
solve(product, first, lower, tol, result)."""

SMALL_SIZE = 2**9
"""Up to this many configurations the dense eigen-solver is faster than Lanczos."""

WIDE = 300.0
"""Diagonals wider than this many flips (the largest sum of the absolute elements of a
configuration) go to Davidson's method: Lanczos needs thousands of products (docs/decisions.md) and
its digits become doubtful."""

TRUSTED = 1e-6
"""Largest error of the energy that is let pass, relative to |E| or to the weakest flip pattern."""

FAINTEST = 1e-140
"""Smallest flips whose squares do not vanish in float64, with room to spare."""

EPS = float(np.finfo(np.float64).eps)


def ground_state(
    H: Hamiltonian,
    k: int = 2,
    *,
    n_up: int | None = None,
    max_memory_gb: float = 8.0,
    tol: float = 1e-9,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> GroundState:
    """The k lowest levels of H and its ground state.

    Args:
        H: any Hamiltonian of this house.
        k: number of levels, a degenerate one counted as often as it is; 2 gives the gap.
        n_up: only states with this many 1 bits (magnetisation N - 2 n_up), for an H that keeps it.
        max_memory_gb: memory it may use, in GB (10^9 bytes).
        tol: residual |H psi - E psi| relative to |E| (to the flips where the diagonal is wide); the
            error of E is of second order in it.
        seed: of the first vector, so that runs repeat.
        device: where the vectors live; the result comes back to the CPU.

    Raises ValueError, before any work, where the memory does not suffice, k is not in 1..D, n_up
    is not in 0..N or H does not conserve it, and where elements of H are not finite or too large or
    small to be squared; ArithmeticError where Lanczos does not converge or the
    error of the energy exceeds 1e-6 of |E| and of every flip: no digit is printed that rounding
    has eaten.
    """
    k = positive_integer("exact diagonalisation", "k", k)
    size, where = sector_size(H, n_up)
    if k > size:
        raise ValueError(f"exact diagonalisation: k is {k}, but {H!r} has {size} levels{where}")
    name = f"{H.n_sites} sites{where}"
    check_memory(name, state_bytes(size, k, H.is_complex), max_memory_gb)
    spare = 1e9 * max_memory_gb - state_bytes(size, k, H.is_complex)
    product = product_of(H, n_up, device, spare)
    strongest, weakest = _flip_scales(H, n_up)
    _check_elements(H, product.diagonal, strongest)
    if strongest == 0.0:
        energies, state = _lowest_of_diagonal(product, k)
    elif float(product.diagonal.max() - product.diagonal.min()) > WIDE * strongest:
        needed = state_bytes(size, k, H.is_complex, davidson.VECTORS)
        check_memory(f"{name} with so wide a diagonal", needed, max_memory_gb)
        solve = partial(davidson.davidson, flip_scale=strongest)
        energies, state = _lowest(product, k, tol, seed, solve, 2 * WIDE * strongest)
    elif size <= SMALL_SIZE or 2 * k + 4 > size:
        energies, state = _lowest_of_matrix(H, n_up, k)
    else:
        energies, state = _lowest(product, k, tol, seed, lanczos.lanczos, math.inf)
    largest = state[np.argmax(np.abs(state))]
    state *= np.abs(largest) / largest
    residual, error = _accuracy(product, energies, state, strongest)
    error += H.diagonal_rounding
    _check_trust(energies, residual, error, weakest)
    return GroundState(H.n_sites, energies, state, n_up, H.x_signs.cpu().numpy(), residual, error)


def _check_elements(H: Hamiltonian, diagonal: Tensor, strongest: float) -> None:
    """Raises ValueError unless all elements are finite and the squares of the flips are numbers."""
    if not (math.isfinite(strongest) and bool(diagonal.isfinite().all())):
        raise ValueError(f"exact diagonalisation: {H!r} has matrix elements that are not finite")
    if strongest != 0.0 and not FAINTEST <= strongest <= 1 / FAINTEST:
        raise ValueError(
            f"exact diagonalisation: the flips of {H!r} have the size {strongest:.3g}; it must be "
            f"between {FAINTEST:g} and {1 / FAINTEST:g}: change the unit of energy"
        )


def _accuracy(
    product: Product | StoredProduct,
    energies: NDArray[np.float64],
    state: Array,
    strongest: float,
) -> tuple[float, float]:
    """|H psi - E psi| and a bound of the distance of E to a level.

    Some level lies within r of E (Krylov and Weinstein), the lowest within r^2 / (E_1 - E - r) if
    the next one is E_1 (Temple). Products and sums round like eps (|D psi| + |K|).
    """
    psi, energy = torch.from_numpy(state).to(product.device), float(energies[0])
    rounding = 8 * EPS * (float((product.diagonal * psi).norm()) + strongest)
    image = product(psi)
    average = float(torch.vdot(psi, image).real)  # to which both theorems apply
    r = float(image.sub_(psi, alpha=energy).norm())
    gap = float(energies[1] - energies[0]) if len(energies) > 1 else 0.0
    distance = r**2 / (gap - r) if gap > 2 * r else r
    return r, distance + abs(average - energy) + rounding


def _check_trust(
    energies: NDArray[np.float64], residual: float, error: float, weakest: float
) -> None:
    """Raises ArithmeticError unless the energy has correct digits."""
    energy = float(energies[0])
    if not error <= TRUSTED * max(abs(energy), weakest):
        raise ArithmeticError(
            f"exact diagonalisation: no digit of E = {energy:.6g} can be vouched for: the residual "
            f"|H psi - E psi| is {residual:.2g} and the error up to {error:.2g}; the couplings "
            "differ by too many orders of magnitude"
        )


def _flip_scales(H: Hamiltonian, n_up: int | None) -> tuple[float, float]:
    """The largest sum of the absolute elements of a configuration, and the smallest of the flip
    patterns' largest elements, without patterns that never act; 0 and 0 where nothing flips."""
    constant = H.constant_off_diagonal if n_up is None else None
    if constant is not None:
        strongest, patterns = float(constant.abs().sum()), constant.abs().cpu()  # (G,)
    else:
        H = H.to("cpu")
        strongest, patterns = 0.0, torch.zeros(len(H.flips), dtype=torch.float64)
        for _, configs in chunks(H.n_sites, n_up):
            elements = H.off_diagonal(configs).abs()  # (B, G)
            if n_up is not None:
                elements = torch.where(raised_ones(configs, H.flips) == 0, elements, 0.0)
            strongest = max(
                strongest, float(elements.sum(dim=1).nan_to_num(math.inf, math.inf).max())
            )
            if len(patterns):
                patterns = torch.maximum(patterns, elements.amax(dim=0))
    acting = patterns[patterns > 0]
    return strongest, float(acting.min()) if len(acting) else 0.0


def _lowest_of_diagonal(
    product: Product | StoredProduct, k: int
) -> tuple[NDArray[np.float64], Array]:
    """(k,) lowest levels and (D,) a ground state where nothing flips, exactly."""
    energies = torch.topk(product.diagonal, k, largest=False).values  # (k,), ascending
    state = torch.zeros(product.size, dtype=product.dtype)
    state[int(product.diagonal.argmin())] = 1.0
    return energies.cpu().numpy(), state.numpy()


def _lowest_of_matrix(
    H: Hamiltonian, n_up: int | None, k: int
) -> tuple[NDArray[np.float64], Array]:
    """The same of a small H, from its matrix."""
    H = H.to("cpu")
    matrix = dense_matrix(H) if n_up is None else sparse_matrix(H, n_up).toarray()
    energies, vectors = np.linalg.eigh(matrix)
    return energies[:k], vectors[:, 0].copy()


def _lowest(
    product: Product | StoredProduct, k: int, tol: float, seed: int, solve: Solver, reach: float
) -> tuple[NDArray[np.float64], Array]:
    """(k,) lowest levels in order and (D,) the ground state.

    One state after another, each the lowest orthogonal to those below: in exact arithmetic the
    Krylov space of one vector holds one state of a degenerate level. The levels are those of H
    between the k states, so states that are still mixed among nearly equal levels do no harm;
    levels farther than `reach` above the lowest are too far from it to be mixed with it, and their
    size would cost it digits.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: all devices start alike
    shape = (k, product.size)
    states = torch.empty(shape, dtype=product.dtype, device=product.device)  # (k, D)
    for level in range(k):
        first = torch.randn(product.size, dtype=product.dtype, generator=generator)
        solve(product, first.to(product.device), states[:level], tol, states[level])
    matrix = torch.stack([states.conj() @ product(state) for state in states], dim=1)  # (k, k)
    own = matrix.diagonal().real  # (k,)
    near = own <= own.min() + reach
    energies, mixing = torch.linalg.eigh(matrix[near][:, near].cpu())
    state = mixing[:, 0].to(states.device) @ states[near]  # (D,)
    energies = torch.cat([energies, own[~near].cpu()]).sort().values
    return energies.numpy(), state.cpu().numpy()
