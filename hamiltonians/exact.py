"""Exact diagonalisation of any Hamiltonian here, for up to about 26 sites.

The 2^N amplitudes are numbered as in `hamiltonian.py`: site 0 is the most significant bit. The
matrix is never stored. ARPACK's implicitly restarted Lanczos (scipy's eigsh) asks for products

    (H psi)(s) = diagonal(s) psi(s) + sum_g off_diagonal_g(s) psi(s xor flips_g)

Where the off-diagonal elements do not depend on s (Rydberg atoms, transverse-field Ising), flips
inside a window of neighbouring sites are summed into one small dense matrix, so a product is a few
matrix multiplications instead of one pass over memory per flip.

Memory is that of the Lanczos vectors, 2^N numbers each: see `memory_estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattice import positive_integer

Array = NDArray[np.float64] | NDArray[np.complex128]

MAX_DENSE_SITES = 14
"""Largest system `dense_matrix` writes out (2 GB)."""

SMALL_SITES = 9
"""Up to here the dense eigen-solver is faster than Lanczos."""

SINGLE_THREAD_SITES = 18
"""Up to here products run on one thread."""

WINDOW = 4
"""Sites of one window of the constant-flip product: matrices of 16 x 16."""

CHUNK = 2**16
"""Configurations handled at a time."""

FEWEST_VECTORS, USUAL_VECTORS = 8, 12
"""Lanczos vectors (ncv): below the first convergence stalls, beyond the second it gains little."""

SPARE_VECTORS = 10
"""Vectors besides the Lanczos basis: ARPACK's residual and workspace, diagonal, polynomial.

Measured for 24 sites: 3.4 GB at 12 vectors beside the interpreter's 0.3 GB; estimated 3.5 GB.
"""

ROUGH = 0.1
"""Relative residual of the first stage."""


@dataclass(frozen=True)
class GroundState:
    """The lowest eigenstates of a Hamiltonian on n_sites sites.

    Attributes:
        n_sites: N.
        energies: (k,) float64, lowest first.
        state: (2^N,) float64 or complex128, the ground state, norm 1; its largest amplitude is
            positive. Where the ground level is degenerate it is one of its states.
    """

    n_sites: int
    energies: NDArray[np.float64]
    state: Array

    @property
    def energy(self) -> float:
        """Ground-state energy."""
        return float(self.energies[0])

    @property
    def gap(self) -> float:
        """E_1 - E_0; nan if only one level was asked for."""
        return float(self.energies[1] - self.energies[0]) if len(self.energies) > 1 else math.nan

    def probabilities(self) -> NDArray[np.float64]:
        """(2^N,) |psi(s)|^2."""
        return np.abs(self.state) ** 2

    def expectation_diagonal(self, f: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """sum_s |psi(s)|^2 f(s) for f of configs (B, N) bool -> (B,) or (B, ...)."""
        total: NDArray[np.float64] | float = 0.0
        for start, configs in _chunks(self.n_sites):
            weights = np.abs(self.state[start : start + len(configs)]) ** 2  # (B,)
            total = total + np.tensordot(weights, f(configs).to(torch.float64).numpy(), axes=1)
        return np.asarray(total)

    def density(self) -> NDArray[np.float64]:
        """(N,) <n_i>, the probability of bit 1 (the excited atom)."""
        return self.expectation_diagonal(lambda configs: configs)

    def sigma_z(self) -> NDArray[np.float64]:
        """(N,) <sz_i> = 1 - 2 <n_i>."""
        return 1 - 2 * self.density()

    def sigma_x(self) -> NDArray[np.float64]:
        """(N,) <sx_i> = 2 Re sum over s with s_i = 0 of psi*(s) psi(s with s_i = 1)."""
        values = np.empty(self.n_sites)
        for i in range(self.n_sites):
            halves = self.state.reshape(2**i, 2, -1)  # (2^i, 2, 2^(N-1-i))
            values[i] = 2 * np.sum(halves[:, 0].conj() * halves[:, 1]).real
        return values

    def correlation(self) -> NDArray[np.float64]:
        """(N, N) <sz_i sz_j>; connected: subtract the outer product of sigma_z with itself."""
        total = np.zeros((self.n_sites, self.n_sites))
        for start, configs in _chunks(self.n_sites):
            spins = 1 - 2 * configs.to(torch.float64).numpy()  # (B, N)
            weights = np.abs(self.state[start : start + len(configs)]) ** 2  # (B,)
            total += spins.T @ (weights[:, None] * spins)
        return total

    def magnetization(self, signs: Tensor | None = None) -> float:
        """<|sum_i signs_i sz_i|> / N; signs (N,) default to +1.

        With lattice.sublattice_signs() it is the staggered magnetisation. The absolute value keeps
        it finite where the ground state is the even superposition of the two ordered states.
        """
        pattern = torch.ones(self.n_sites) if signs is None else signs
        pattern = pattern.to(torch.float64) / self.n_sites  # (N,)
        order = self.expectation_diagonal(lambda s: ((1 - 2 * s.to(torch.float64)) @ pattern).abs())
        return float(order)


def ground_state(
    H: Hamiltonian,
    k: int = 2,
    *,
    max_memory_gb: float = 8.0,
    tol: float = 1e-9,
    seed: int = 0,
) -> GroundState:
    """The k lowest levels of H and its ground state.

    Args:
        H: any Hamiltonian of this house.
        k: number of levels; 2 gives the gap.
        max_memory_gb: memory it may use, in GB (10^9 bytes).
        tol: residual |H psi - E psi| relative to |E|; the error of E is of second order in it.
        seed: of the first Lanczos vector, so that runs repeat.

    Raises ValueError, before any work, where the memory does not suffice or k is not in 1..2^N.
    """
    k = positive_integer("exact diagonalisation", "k", k)
    if k > 2**H.n_sites:
        raise ValueError(f"exact diagonalisation: k is {k}, but {H!r} has {2**H.n_sites} levels")
    n_vectors = _lanczos_vectors(H.n_sites, k, H.is_complex, max_memory_gb)
    H = H.to("cpu")
    if H.n_sites <= SMALL_SITES or 2 * k + 4 > 2**H.n_sites:
        energies, vectors = np.linalg.eigh(dense_matrix(H))
        energies, vectors = energies[:k], vectors[:, :k]
    else:
        spare = 1e9 * max_memory_gb - _bytes(H.n_sites, k, n_vectors, H.is_complex)
        with _fitting_threads(H.n_sites):
            energies, vectors = _lanczos(Product(H, spare), k, n_vectors, tol, seed)
    lowest = np.argsort(energies)
    state = vectors[:, lowest[0]].copy()
    largest = state[np.argmax(np.abs(state))]
    state *= np.abs(largest) / largest
    return GroundState(H.n_sites, energies[lowest], state)


@contextmanager
def _fitting_threads(n_sites: int) -> Iterator[None]:
    """One torch thread for small systems: torch's pool and BLAS's pool, which ARPACK uses, wait
    for each other by spinning, and at 16 sites that takes many times longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if n_sites <= SINGLE_THREAD_SITES else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _lanczos(
    product: Product, k: int, n_vectors: int, tol: float, seed: int
) -> tuple[NDArray[np.float64], Array]:
    """(k,) lowest levels and (2^N, k) vectors, unsorted.

    Interactions stretch the spectrum, so plain Lanczos restarts hundreds of times and spends its
    time on orthogonalising. Hence two stages: a rough run gives upper bounds of the lowest levels
    (Ritz values never lie below the levels they stand for); the second run diagonalises the
    Chebyshev polynomial that keeps all levels above them within [-1, 1] and magnifies the rest.
    Zhou et al., J. Comput. Phys. 219, 172 (2006).
    """
    size = len(product.diagonal)
    first = np.random.default_rng(seed).standard_normal(size).astype(product.dtype)
    plain = LinearOperator((size, size), matvec=product, dtype=product.dtype)
    rough, vectors = eigsh(plain, k=k + 1, which="SA", ncv=n_vectors, tol=ROUGH, v0=first)
    first = vectors.sum(axis=1)
    del vectors
    polynomial = Chebyshev(product, *_unwanted(np.sort(rough), product.upper_bound))
    filtered = LinearOperator((size, size), matvec=polynomial, dtype=product.dtype)
    _, vectors = eigsh(filtered, k=k, which="LA", ncv=n_vectors, tol=tol, v0=first)
    energies = [np.vdot(v, product(v)).real for v in np.ascontiguousarray(vectors.T)]
    return np.array(energies), vectors


def _unwanted(rough: NDArray[np.float64], top: float) -> tuple[float, float, int]:
    """The interval of unwanted levels and the degree of the polynomial that suppresses them.

    rough (k + 1,): upper bounds of the lowest levels. The interval starts above the k-th, or the
    polynomial would not keep the order of the k levels. The degree magnifies the lowest level
    about e^3 / 2 times.
    """
    bottom = max(float(rough[-1]), float(rough[-2]) + 1e-3 * (top - float(rough[0])))
    growth = math.acosh(1 + 2 * (bottom - float(rough[0])) / (top - bottom))
    return bottom, top, max(1, min(round(3 / growth), 200))


class Chebyshev:
    """psi -> T_degree((top + bottom - 2 H) / (top - bottom)) psi: large for levels below bottom."""

    def __init__(self, product: Product, bottom: float, top: float, degree: int) -> None:
        self.product, self.degree = product, degree
        self.middle, self.half = (top + bottom) / 2, (top - bottom) / 2

    def __call__(self, psi: Array) -> Array:
        earlier, current = psi, self._scaled(psi, 1.0)
        for _ in range(self.degree - 1):  # T_{m+1}(x) = 2 x T_m(x) - T_{m-1}(x)
            later = self._scaled(current, 2.0)
            later -= earlier
            earlier, current = current, later
        return current

    def _scaled(self, psi: Array, factor: float) -> Array:
        """factor (middle - H) / half psi."""
        result = torch.from_numpy(self.product(psi))
        result.sub_(torch.from_numpy(psi.reshape(-1)), alpha=self.middle)
        return result.mul_(-factor / self.half).numpy()


class Product:
    """psi -> H psi for psi (2^N,) numpy, without the matrix.

    spare_bytes: memory that may hold elements which depend on the configuration; beyond it they
    are computed anew at every product.
    """

    def __init__(self, H: Hamiltonian, spare_bytes: float = 0.0) -> None:
        self.H = H
        self.dtype = np.complex128 if H.is_complex else np.float64
        self.diagonal = torch.cat([H.diagonal(configs) for _, configs in _chunks(H.n_sites)])
        self.constant = H.constant_off_diagonal
        self.upper_bound = self._gershgorin_bound()
        if self.constant is not None:
            self.windows, self.rest = _windowed_flips(H, self.constant)
            return
        self.masks = _flip_numbers(H)  # (G,)
        cached = spare_bytes >= 8 * len(H.flips) * len(self.diagonal) * (1 + H.is_complex)
        self.cache = [H.off_diagonal(c) for _, c in _chunks(H.n_sites)] if cached else None

    def __call__(self, psi: Array) -> Array:
        vector = torch.from_numpy(psi.reshape(-1))  # (2^N,)
        result = self.diagonal * vector
        if self.constant is not None:
            self._add_constant(vector, result)
        else:
            self._add_general(vector, result)
        return result.numpy()

    def _gershgorin_bound(self) -> float:
        """max_s (diagonal(s) + sum_g |off_diagonal_g(s)|), above every level."""
        if self.constant is not None:
            return float(self.diagonal.max() + self.constant.abs().sum())
        return max(
            float((self.H.diagonal(c) + self.H.off_diagonal(c).abs().sum(dim=1)).max())
            for _, c in _chunks(self.H.n_sites)
        )

    def _add_constant(self, vector: Tensor, result: Tensor) -> None:
        """The windows as matrix products, flips across windows as reversed views."""
        for first, matrix in self.windows:
            grid = vector.reshape(2**first, len(matrix), -1)  # (2^first, 2^w, rest)
            if grid.shape[2] == 1:
                result.reshape(-1, len(matrix)).addmm_(grid[:, :, 0], matrix)
            else:
                target = result.reshape(grid.shape)
                target.baddbmm_(matrix.expand(len(grid), -1, -1), grid)
        for element, shape, axes in self.rest:
            result.reshape(shape).add_(vector.reshape(shape).flip(axes), alpha=element)

    def _add_general(self, vector: Tensor, result: Tensor) -> None:
        for number, (start, configs) in enumerate(_chunks(self.H.n_sites)):
            elements = self.cache[number] if self.cache else self.H.off_diagonal(configs)  # (B, G)
            here = torch.arange(start, start + len(configs))  # (B,)
            there = vector[here[:, None] ^ self.masks]  # (B, G)
            result[start : start + len(configs)] += (elements * there).sum(dim=1)


Window = tuple[int, Tensor]
Reversal = tuple[float, tuple[int, ...], tuple[int, ...]]


def _windowed_flips(H: Hamiltonian, elements: Tensor) -> tuple[list[Window], list[Reversal]]:
    """Constant flips as (first site, symmetric matrix) of each window, and those that fit in none.

    A run of neighbouring flipped sites reverses its axis of 2^run states; such a flip is kept as
    (element, shape of the amplitudes, axes to reverse).
    """
    matrices: dict[int, Tensor] = {}
    rest: list[Reversal] = []
    for flip, element in zip(H.flips, elements.tolist(), strict=True):
        sites = flip.nonzero()[:, 0].tolist()
        behind = (H.n_sites - 1 - sites[0]) // WINDOW * WINDOW  # sites behind the window
        width = min(WINDOW, H.n_sites - behind)
        first = H.n_sites - behind - width
        if sites[-1] < first + width:
            mask = sum(1 << (first + width - 1 - site) for site in sites)
            states = torch.arange(2**width)
            matrix = matrices.setdefault(
                first, torch.zeros(2**width, 2**width, dtype=elements.dtype)
            )
            matrix[states, states ^ mask] += element
        else:
            rest.append((element, *_reversal(sites, H.n_sites)))
    return list(matrices.items()), rest


def _reversal(sites: list[int], n_sites: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the amplitudes with one axis per run of flipped sites, and those axes."""
    shape, axes, done = [], [], 0
    while sites:
        run = next(r for r in range(1, len(sites) + 1) if sites[0] + r not in sites)
        shape += [2 ** (sites[0] - done), 2**run]
        axes.append(len(shape) - 1)
        done, sites = sites[0] + run, sites[run:]
    return (*shape, 2 ** (n_sites - done)), tuple(axes)


def memory_estimate(n_sites: int, k: int = 2) -> int:
    """Bytes of memory `ground_state` needs at least for a real Hamiltonian (twice if complex)."""
    return _bytes(n_sites, k, max(FEWEST_VECTORS, 2 * k + 3), False)


def _bytes(n_sites: int, k: int, n_vectors: int, is_complex: bool) -> int:
    return 2**n_sites * (16 if is_complex else 8) * (n_vectors + 2 * k + SPARE_VECTORS)


def _lanczos_vectors(n_sites: int, k: int, is_complex: bool, max_memory_gb: float) -> int:
    """As many Lanczos vectors as useful and as fit. Raises ValueError if too few do."""
    fewest = max(FEWEST_VECTORS, 2 * k + 3)
    for n_vectors in range(max(USUAL_VECTORS, 2 * k + 8), fewest - 1, -1):
        if _bytes(n_sites, k, n_vectors, is_complex) <= 1e9 * max_memory_gb:
            return min(n_vectors, 2**n_sites)
    needed = _bytes(n_sites, k, fewest, is_complex) / 1e9
    raise ValueError(
        f"exact diagonalisation of {n_sites} sites needs {needed:.3g} GB, "
        f"{max_memory_gb:g} GB are allowed"
    )


def basis(n_sites: int, start: int = 0, stop: int | None = None) -> Tensor:
    """(stop - start, N) bool: the configurations numbered start..stop-1, by default all 2^N."""
    numbers = torch.arange(start, 2**n_sites if stop is None else stop)  # (B,)
    places = torch.arange(n_sites - 1, -1, -1)  # (N,)
    return (numbers[:, None] >> places & 1).to(torch.bool)  # (B, N)


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
    masks = _flip_numbers(H)  # (G,)
    for start, configs in _chunks(H.n_sites):
        rows = torch.arange(start, start + len(configs))  # (B,)
        matrix[rows, rows] = H.diagonal(configs).to(matrix.dtype)
        matrix[rows[:, None], rows[:, None] ^ masks] = H.off_diagonal(configs)  # distinct entries
    return matrix.numpy()


def _flip_numbers(H: Hamiltonian) -> Tensor:
    """(G,) int64: each flip pattern as a number; s xor flip is the xor of their numbers."""
    places = torch.arange(H.n_sites - 1, -1, -1)  # (N,)
    return (H.flips.to(torch.int64) << places).sum(dim=1)


def _chunks(n_sites: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, configurations (B, N)) through the whole basis in order."""
    for start in range(0, 2**n_sites, CHUNK):
        yield start, basis(n_sites, start, min(start + CHUNK, 2**n_sites))
