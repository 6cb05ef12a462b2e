"""Exact diagonalisation of any Hamiltonian here, for up to about 26 sites.

The 2^N amplitudes are numbered as in `hamiltonian.py`: site 0 is the most significant bit.
ARPACK's implicitly restarted Lanczos (scipy's eigsh) asks for products

    (H psi)(s) = diagonal(s) psi(s) + sum_g off_diagonal_g(s) psi(s xor flips_g)

Where the off-diagonal elements do not depend on s (Rydberg atoms, transverse-field Ising), flips
inside a window of neighbouring sites are summed into one small dense matrix, so a product is a few
matrix multiplications instead of one pass over memory per flip, and the matrix is never stored.
Where they do depend on s (exchange, most Pauli sums) it is stored as a sparse one if it fits.

Where H keeps the number of 1 bits, n_up restricts all of it to the C(N, n_up) configurations with
n_up of them, listed in the same order; there the matrix is always stored.

Memory is that of the Lanczos vectors, 2^N numbers each (see `memory_estimate`), and of the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattice import positive_integer

Array = NDArray[np.float64] | NDArray[np.complex128]

MAX_DENSE_SITES = 14
"""Largest system `dense_matrix` writes out (2 GB)."""

SMALL_SIZE = 2**9
"""Up to this many configurations the dense eigen-solver is faster than Lanczos."""

SINGLE_THREAD_SIZE = 2**18
"""Up to this many configurations products run on one thread."""

MAX_CODED_SITES = 62
"""Largest system whose configurations are numbered in 64 bits."""

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

SAME_LEVEL = 1e-9
"""Levels closer than this fraction of the spectrum's width count as one degenerate level."""


@dataclass(frozen=True)
class GroundState:
    """The lowest eigenstates of a Hamiltonian on n_sites sites.

    Attributes:
        n_sites: N.
        energies: (k,) float64, lowest first, each as often as it is degenerate.
        state: (D,) float64 or complex128, the ground state, norm 1; its largest amplitude is
            positive. Where the ground level is degenerate it is one of its states. D = 2^N, or
            C(N, n_up) in the order of `sector_basis`.
        n_up: number of 1 bits of every configuration, None: all configurations.
    """

    n_sites: int
    energies: NDArray[np.float64]
    state: Array
    n_up: int | None = None

    @property
    def energy(self) -> float:
        """Ground-state energy."""
        return float(self.energies[0])

    @property
    def gap(self) -> float:
        """E_1 - E_0; nan if only one level was asked for."""
        return float(self.energies[1] - self.energies[0]) if len(self.energies) > 1 else math.nan

    def probabilities(self) -> NDArray[np.float64]:
        """(D,) |psi(s)|^2."""
        return np.abs(self.state) ** 2

    def expectation_diagonal(self, f: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
        """sum_s |psi(s)|^2 f(s) for f of configs (B, N) bool -> (B,) or (B, ...)."""
        total: NDArray[np.float64] | float = 0.0
        for start, configs in _chunks(self.n_sites, self.n_up):
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
        """(N,) <sx_i> = 2 Re sum over s with s_i = 0 of psi*(s) psi(s with s_i = 1).

        0 where n_up is fixed.
        """
        values = np.zeros(self.n_sites)
        if self.n_up is not None:
            return values
        for i in range(self.n_sites):
            halves = self.state.reshape(2**i, 2, -1)  # (2^i, 2, 2^(N-1-i))
            values[i] = 2 * np.sum(halves[:, 0].conj() * halves[:, 1]).real
        return values

    def correlation(self) -> NDArray[np.float64]:
        """(N, N) <sz_i sz_j>; connected: subtract the outer product of sigma_z with itself."""
        total = np.zeros((self.n_sites, self.n_sites))
        for start, configs in _chunks(self.n_sites, self.n_up):
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
    n_up: int | None = None,
    max_memory_gb: float = 8.0,
    tol: float = 1e-9,
    seed: int = 0,
) -> GroundState:
    """The k lowest levels of H and its ground state.

    Args:
        H: any Hamiltonian of this house.
        k: number of levels, a degenerate one counted as often as it is; 2 gives the gap.
        n_up: only states with this many 1 bits (magnetisation N - 2 n_up), for an H that keeps it.
        max_memory_gb: memory it may use, in GB (10^9 bytes).
        tol: residual |H psi - E psi| relative to |E|; the error of E is of second order in it.
        seed: of the first Lanczos vector, so that runs repeat.

    Raises ValueError, before any work, where the memory does not suffice, k is not in 1..D, n_up
    is not in 0..N or H does not conserve it.
    """
    k = positive_integer("exact diagonalisation", "k", k)
    size, where = _sector_size(H, n_up)
    if k > size:
        raise ValueError(f"exact diagonalisation: k is {k}, but {H!r} has {size} levels{where}")
    matrix_bytes = 0 if n_up is None else _matrix_bytes(H, size)
    name = f"{H.n_sites} sites{where}"
    n_vectors = _lanczos_vectors(name, size, k, H.is_complex, max_memory_gb, matrix_bytes)
    H = H.to("cpu")
    if size <= SMALL_SIZE or 2 * k + 4 > size:
        matrix = dense_matrix(H) if n_up is None else sparse_matrix(H, n_up).toarray()
        energies, vectors = np.linalg.eigh(matrix)
        energies, vectors = energies[:k], vectors[:, :k]
    else:
        spare = 1e9 * max_memory_gb - _bytes(size, k, n_vectors, H.is_complex)
        stored = H.constant_off_diagonal is None and _matrix_bytes(H, size) <= spare
        with _fitting_threads(size):
            product = StoredProduct(H, n_up) if stored or n_up is not None else Product(H)
            energies, vectors = _lanczos(product, k, n_vectors, tol, seed)
    lowest = np.argsort(energies)
    state = vectors[:, lowest[0]].copy()
    largest = state[np.argmax(np.abs(state))]
    state *= np.abs(largest) / largest
    return GroundState(H.n_sites, energies[lowest], state, n_up)


def _sector_size(H: Hamiltonian, n_up: int | None) -> tuple[int, str]:
    """(D, ' with n_up up' for messages). Raises ValueError unless H has such a sector."""
    if n_up is None:
        return 2**H.n_sites, ""
    if isinstance(n_up, bool) or not isinstance(n_up, int) or not 0 <= n_up <= H.n_sites:
        raise ValueError(
            f"exact diagonalisation: n_up is {n_up!r}; it must be a whole number in 0..{H.n_sites}"
        )
    if H.n_sites > MAX_CODED_SITES:
        raise ValueError(
            f"exact diagonalisation: {H.n_sites} sites; with n_up at most {MAX_CODED_SITES}"
        )
    if not H.conserves_magnetisation:
        raise ValueError(
            f"exact diagonalisation: n_up is {n_up}, but {H!r} does not conserve the number of "
            "1 bits; leave n_up out"
        )
    return math.comb(H.n_sites, n_up), f" with {n_up} up"


@contextmanager
def _fitting_threads(size: int) -> Iterator[None]:
    """One torch thread for small systems: torch's pool and BLAS's pool, which ARPACK uses, wait
    for each other by spinning, and at 16 sites that takes many times longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if size <= SINGLE_THREAD_SIZE else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _lanczos(
    product: Product | StoredProduct, k: int, n_vectors: int, tol: float, seed: int
) -> tuple[NDArray[np.float64], Array]:
    """(k,) lowest levels and (D, k) vectors, unsorted.

    Interactions stretch the spectrum, so plain Lanczos restarts hundreds of times and spends its
    time on orthogonalising. Hence two stages: a rough run gives upper bounds of the lowest levels
    (Ritz values never lie below the levels they stand for); the second run diagonalises the
    Chebyshev polynomial that keeps all levels above them within [-1, 1] and magnifies the rest.
    Zhou et al., J. Comput. Phys. 219, 172 (2006).
    """
    random = np.random.default_rng(seed)
    first = random.standard_normal(product.size).astype(product.dtype)
    plain = _operator(product.size, product, product.dtype)
    rough, vectors = eigsh(plain, k=k + 1, which="SA", ncv=n_vectors, tol=ROUGH, v0=first)
    first = vectors.sum(axis=1)
    del vectors
    polynomial = Chebyshev(product, *_unwanted(np.sort(rough), product.upper_bound))
    filtered = _operator(product.size, polynomial, product.dtype)
    _, vectors = eigsh(filtered, k=k, which="LA", ncv=n_vectors, tol=tol, v0=first)
    energies = np.array([product.average(v) for v in np.ascontiguousarray(vectors.T)])
    if k > 1:  # one start vector meets one state of each level; the lowest energy is right anyway
        return _with_partners(product, polynomial, energies, vectors, n_vectors, tol, random)
    return energies, vectors


def _with_partners(
    product: Product | StoredProduct,
    polynomial: Chebyshev,
    energies: NDArray[np.float64],
    vectors: Array,
    n_vectors: int,
    tol: float,
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], Array]:
    """The same k levels, degenerate ones as often as they are.

    In exact arithmetic the Krylov space of one vector holds one state of a degenerate level. So
    the lowest level orthogonal to the k states found so far is searched for, from a new random
    vector; while it lies below the highest of them it takes that one's place.
    """
    same = SAME_LEVEL * (product.upper_bound - float(energies.min()))
    while True:
        basis = vectors  # (D, k), orthonormal

        def orthogonal(psi: Array, basis: Array = basis) -> Array:
            psi = psi.reshape(-1)
            return psi - basis @ (basis.conj().T @ psi)

        def deflated(psi: Array, orthogonal: Callable[[Array], Array] = orthogonal) -> Array:
            return orthogonal(polynomial(orthogonal(psi)))

        first = orthogonal(random.standard_normal(product.size).astype(product.dtype))
        operator = _operator(product.size, deflated, product.dtype)
        _, extra = eigsh(operator, k=1, which="LA", ncv=n_vectors, tol=tol, v0=first)
        energy = product.average(np.ascontiguousarray(extra[:, 0]))
        highest = int(np.argmax(energies))
        if energy >= energies[highest] - same:
            return energies, vectors
        energies, vectors = energies.copy(), vectors.copy()
        energies[highest], vectors[:, highest] = energy, extra[:, 0]


def _operator(size: int, function: Callable[[Array], Array], dtype: type) -> LinearOperator:
    return LinearOperator((size, size), matvec=function, dtype=dtype)


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

    def __init__(
        self, product: Product | StoredProduct, bottom: float, top: float, degree: int
    ) -> None:
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

    Elements that depend on the configuration are computed anew at every product.
    """

    def __init__(self, H: Hamiltonian) -> None:
        self.H = H
        self.size = 2**H.n_sites
        self.dtype = np.complex128 if H.is_complex else np.float64
        self.diagonal = torch.cat([H.diagonal(configs) for _, configs in _chunks(H.n_sites)])
        self.constant = H.constant_off_diagonal
        self.upper_bound = self._gershgorin_bound()
        if self.constant is not None:
            self.windows, self.rest = _windowed_flips(H, self.constant)
            return
        self.masks = _flip_numbers(H)  # (G,)

    def __call__(self, psi: Array) -> Array:
        vector = torch.from_numpy(psi.reshape(-1))  # (2^N,)
        result = self.diagonal * vector
        if self.constant is not None:
            self._add_constant(vector, result)
        else:
            self._add_general(vector, result)
        return result.numpy()

    def average(self, psi: Array) -> float:
        """<psi|H|psi> for psi (2^N,) of norm 1."""
        return float(np.vdot(psi, self(psi)).real)

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
        for start, configs in _chunks(self.H.n_sites):
            elements = self.H.off_diagonal(configs)  # (B, G)
            here = torch.arange(start, start + len(configs))  # (B,)
            there = vector[here[:, None] ^ self.masks]  # (B, G)
            result[start : start + len(configs)] += (elements * there).sum(dim=1)


class StoredProduct:
    """psi -> H psi for psi (D,) numpy, with the sparse matrix; n_up as for `sparse_matrix`."""

    def __init__(self, H: Hamiltonian, n_up: int | None = None) -> None:
        self.matrix = sparse_matrix(H, n_up)
        self.size = self.matrix.shape[0]
        self.dtype = np.complex128 if H.is_complex else np.float64
        diagonal = self.matrix.diagonal().real
        row_sums = abs(self.matrix) @ np.ones(self.size) - np.abs(diagonal) + diagonal
        self.upper_bound = float(row_sums.max())  # Gershgorin

    def __call__(self, psi: Array) -> Array:
        return np.asarray(self.matrix @ psi.reshape(-1))

    def average(self, psi: Array) -> float:
        """<psi|H|psi> for psi (D,) of norm 1."""
        return float(np.vdot(psi, self(psi)).real)


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


def sparse_matrix(H: Hamiltonian, n_up: int | None = None) -> csr_array:
    """(D, D) the matrix of H, between the configurations with n_up 1 bits only if it is given.

    Raises ValueError where n_up is not in 0..N or H does not conserve it.
    """
    size, _ = _sector_size(H, n_up)
    H = H.to("cpu")
    masks = _flip_numbers(H)  # (G,)
    codes = torch.arange(size) if n_up is None else sector_basis(H.n_sites, n_up)  # (D,)
    rows, columns, values = [], [], []
    for start, configs in _chunks(H.n_sites, n_up):
        here = torch.arange(start, start + len(configs))  # (B,)
        elements = H.off_diagonal(configs)  # (B, G)
        there = codes[here, None] ^ masks  # (B, G)
        acts = elements != 0
        if n_up is not None:  # elements that cancel up to rounding may lead out of the sector
            acts = acts & (_raised_ones(configs, H.flips) == 0)
        rows += [here, here[:, None].expand_as(acts)[acts]]
        columns += [here, torch.searchsorted(codes, there[acts])]
        values += [H.diagonal(configs), elements[acts]]
    dtype = torch.complex128 if H.is_complex else torch.float64
    entries = torch.cat([value.to(dtype) for value in values]).numpy()
    places = (torch.cat(rows).numpy(), torch.cat(columns).numpy())
    return csr_array((entries, places), shape=(size, size))


def _raised_ones(configs: Tensor, flips: Tensor) -> Tensor:
    """(B, G) by how much each flip raises the number of 1 bits of configs (B, N)."""
    flipped = flips.to(torch.float32)  # (G, N)
    return (1 - 2 * configs.to(torch.float32)) @ flipped.T


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
    return _bytes(2**n_sites, k, max(FEWEST_VECTORS, 2 * k + 3), False)


def memory_needed(H: Hamiltonian, k: int = 2, n_up: int | None = None) -> int:
    """Bytes of memory `ground_state(H, k, n_up=n_up)` needs at least; ValueError as there."""
    size, _ = _sector_size(H, n_up)
    matrix_bytes = 0 if n_up is None else _matrix_bytes(H, size)
    return _bytes(size, k, max(FEWEST_VECTORS, 2 * k + 3), H.is_complex) + matrix_bytes


def _bytes(size: int, k: int, n_vectors: int, is_complex: bool) -> int:
    return size * (16 if is_complex else 8) * (n_vectors + 2 * k + SPARE_VECTORS)


def _matrix_bytes(H: Hamiltonian, size: int) -> int:
    """Of `sparse_matrix` while it is built: value, row and column of each entry, twice."""
    return 2 * size * (len(H.flips) + 1) * (32 if H.is_complex else 24)


def _lanczos_vectors(
    name: str, size: int, k: int, is_complex: bool, max_memory_gb: float, matrix_bytes: int
) -> int:
    """As many Lanczos vectors as useful and as fit. Raises ValueError if too few do."""
    fewest = max(FEWEST_VECTORS, 2 * k + 3)
    for n_vectors in range(max(USUAL_VECTORS, 2 * k + 8), fewest - 1, -1):
        if _bytes(size, k, n_vectors, is_complex) + matrix_bytes <= 1e9 * max_memory_gb:
            return min(n_vectors, size)
    needed = (_bytes(size, k, fewest, is_complex) + matrix_bytes) / 1e9
    raise ValueError(
        f"exact diagonalisation of {name} needs {needed:.3g} GB, {max_memory_gb:g} GB are allowed"
    )


def basis(n_sites: int, start: int = 0, stop: int | None = None) -> Tensor:
    """(stop - start, N) bool: the configurations numbered start..stop-1, by default all 2^N."""
    return _bits(torch.arange(start, 2**n_sites if stop is None else stop), n_sites)


def _bits(numbers: Tensor, n_sites: int) -> Tensor:
    """(B, N) bool: the configurations with these numbers (B,)."""
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


def _chunks(n_sites: int, n_up: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """(place of the first, configurations (B, N)) through the whole basis or sector in order."""
    if n_up is None:
        for start in range(0, 2**n_sites, CHUNK):
            yield start, basis(n_sites, start, min(start + CHUNK, 2**n_sites))
        return
    codes = sector_basis(n_sites, n_up)  # (D,)
    for start in range(0, len(codes), CHUNK):
        yield start, _bits(codes[start : start + CHUNK], n_sites)
