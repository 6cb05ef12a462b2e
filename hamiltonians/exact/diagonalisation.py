"""Exact diagonalisation of any Hamiltonian here, for up to about 27 sites.

The 2^N amplitudes are numbered as in `hamiltonian.py`: site 0 is the most significant bit.
Lanczos' recursion (`lanczos.py`), and Davidson's method where the diagonal is far wider than the
flips (`davidson.py`), ask for products

    (H psi)(s) = diagonal(s) psi(s) + sum_g off_diagonal_g(s) psi(s xor flips_g)

Where the off-diagonal elements do not depend on s (Rydberg atoms, transverse-field Ising), flips
inside a window of neighbouring sites are summed into one small dense matrix, so a product is a few
matrix multiplications instead of one pass over memory per flip, and the matrix is never stored.
Where they do depend on s (exchange, most Pauli sums) it is stored as a sparse one if it fits.

Where H keeps the number of 1 bits, n_up restricts all of it to the C(N, n_up) configurations with
n_up of them, listed in the same order.

Memory is that of a few vectors of 2^N numbers (see `memory_estimate`), and of a stored matrix: the
Krylov vectors are not kept but made a second time when the ground state is put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from hamiltonians.exact import davidson, lanczos
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import positive_integer

Array = NDArray[np.float64] | NDArray[np.complex128]

Solver = Callable[["Product | StoredProduct", Tensor, Tensor, float, Tensor], None]
"""Puts the lowest state orthogonal to `found` (k, D) into `result` (D,), begun from `first` (D,):
solve(product, first, found, tol, result)."""

MAX_DENSE_SITES = 14
"""Largest system `dense_matrix` writes out (2 GB)."""

SMALL_SIZE = 2**9
"""Up to this many configurations the dense eigen-solver is faster than Lanczos."""

MAX_CODED_SITES = 62
"""Largest system whose configurations are numbered in 64 bits."""

WINDOW = 4
"""Sites of one window of the constant-flip product: matrices of 16 x 16."""

CHUNK = 2**16
"""Configurations handled at a time."""

WIDE = 300.0
"""Diagonals wider than this many flips (the largest sum of the absolute elements of a
configuration) go to Davidson's method: Lanczos needs thousands of products (4x4 atoms, V = 100:
4 373 for two levels, 122 with Davidson; V = 1000: no end) and its digits become doubtful."""

TRUSTED = 1e-6
"""Largest error of the energy that is let pass, relative to |E| or to the weakest flip pattern."""

FAINTEST = 1e-140
"""Smallest flips whose squares do not vanish in float64, with room to spare."""

LARGEST_SIZE = 2**1000
"""Larger numbers of configurations count as this many: they have to fit into a float."""

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class GroundState:
    """The lowest eigenstates of a Hamiltonian on n_sites sites.

    Attributes:
        n_sites: N.
        energies: (k,) float64, lowest first, each as often as it is degenerate.
        state: (D,) float64 or complex128, the ground state, norm 1; its largest amplitude is
            positive. Where the ground level is degenerate it is one of its states. D = 2^N, or
            C(N, n_up) in the order of `sector_basis`. Where sites are rotated it is that of U H U.
        n_up: number of 1 bits of every configuration, None: all configurations.
        x_signs: (N,) signs of sx in the basis of the state (`Hamiltonian.x_signs`).
        residual: |H psi - E psi| of the ground state, as computed.
        energy_error: how far the energy may be from a level of H: the residual r, r^2 / (gap - r)
            where a second level was found and that is less; and what rounding adds.
    """

    n_sites: int
    energies: NDArray[np.float64]
    state: Array
    n_up: int | None = None
    x_signs: NDArray[np.float64] | float = 1.0
    residual: float = math.nan
    energy_error: float = math.nan

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
        for start, configs in chunks(self.n_sites, self.n_up):
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
        """(N,) <sx_i> = +-2 Re sum over s with s_i = 0 of psi*(s) psi(s with s_i = 1).

        - where site i is rotated; 0 where n_up is fixed.
        """
        values = np.zeros(self.n_sites)
        if self.n_up is not None:
            return values
        for i in range(self.n_sites):
            halves = self.state.reshape(2**i, 2, -1)  # (2^i, 2, 2^(N-1-i))
            values[i] = 2 * np.sum(halves[:, 0].conj() * halves[:, 1]).real
        return values * self.x_signs

    def correlation(self) -> NDArray[np.float64]:
        """(N, N) <sz_i sz_j>; connected: subtract the outer product of sigma_z with itself."""
        total = np.zeros((self.n_sites, self.n_sites))
        for start, configs in chunks(self.n_sites, self.n_up):
            spins = 1 - 2 * configs.to(torch.float64).numpy()  # (B, N)
            weights = np.abs(self.state[start : start + len(configs)]) ** 2  # (B,)
            total += spins.T @ (weights[:, None] * spins)
        return total

    def density_density(self) -> NDArray[np.float64]:
        """(N, N) <n_i n_j>; the diagonal is <n_i>."""
        density = self.density()
        pairs = self.correlation() - 1 + 2 * (density[:, None] + density)  # 4 <n_i n_j>
        return pairs / 4

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
    size, where = _sector_size(H, n_up)
    if k > size:
        raise ValueError(f"exact diagonalisation: k is {k}, but {H!r} has {size} levels{where}")
    name = f"{H.n_sites} sites{where}"
    _check_memory(name, _bytes(size, k, H.is_complex), max_memory_gb)
    spare = 1e9 * max_memory_gb - _bytes(size, k, H.is_complex)
    product = _product(H, n_up, device, spare)
    strongest, weakest = _flip_scales(H, n_up)
    _check_elements(H, product.diagonal, strongest)
    if strongest == 0.0:
        energies, state = _lowest_of_diagonal(product, k)
    elif float(product.diagonal.max() - product.diagonal.min()) > WIDE * strongest:
        needed = _bytes(size, k, H.is_complex, davidson.VECTORS)
        _check_memory(f"{name} with so wide a diagonal", needed, max_memory_gb)
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
                elements = torch.where(_raised_ones(configs, H.flips) == 0, elements, 0.0)
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


def _product(
    H: Hamiltonian, n_up: int | None, device: torch.device | str, spare_bytes: float
) -> Product | StoredProduct:
    """With the matrix where that is faster, on the CPU, and fits."""
    if torch.device(device).type == "cpu" and H.constant_off_diagonal is None:
        size, _ = _sector_size(H, n_up)
        if _matrix_bytes(H, size) <= spare_bytes:
            return StoredProduct(H, n_up)
    return Product(H, n_up, device)


def _lowest(
    product: Product | StoredProduct, k: int, tol: float, seed: int, solve: Solver, reach: float
) -> tuple[NDArray[np.float64], Array]:
    """(k,) lowest levels in order and (D,) the ground state.

    One state after another, each the lowest orthogonal to those found: in exact arithmetic the
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


class Product:
    """psi -> H psi for psi (D,) on `device`, without the matrix; n_up as for `sparse_matrix`.

    Elements that depend on the configuration are computed anew at every product.
    """

    def __init__(
        self, H: Hamiltonian, n_up: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.H = H = H.to(self.device)
        self.size, _ = _sector_size(H, n_up)
        self.dtype = torch.complex128 if H.is_complex else torch.float64
        self.codes = None if n_up is None else sector_basis(H.n_sites, n_up).to(self.device)
        self.diagonal = torch.empty(self.size, dtype=torch.float64, device=self.device)
        for rows, configs in self._chunks():
            self.diagonal[rows] = H.diagonal(configs)
        self.constant = H.constant_off_diagonal if n_up is None else None
        if self.constant is not None:
            self.windows, self.rest = _windowed_flips(H, self.constant)
            return
        self.masks = _flip_numbers(H)  # (G,)

    def __call__(self, psi: Tensor) -> Tensor:
        """H psi (D,)."""
        result = torch.zeros_like(psi)
        self.add(psi, result)
        return result

    def add(self, psi: Tensor, result: Tensor) -> None:
        """result += H psi, both (D,) and contiguous."""
        result.addcmul_(self.diagonal, psi)
        if self.constant is not None:
            self._add_constant(psi, result)
        else:
            self._add_general(psi, result)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """(places, configurations (B, N)) through the whole basis or sector in order."""
        for start in range(0, self.size, CHUNK):
            rows = slice(start, min(start + CHUNK, self.size))
            yield rows, _bits(self._numbers(rows), self.H.n_sites)

    def _numbers(self, rows: slice) -> Tensor:
        """(B,) int64: the configurations at these places."""
        if self.codes is not None:
            return self.codes[rows]
        return torch.arange(rows.start, rows.stop, device=self.device)

    def _add_constant(self, vector: Tensor, result: Tensor) -> None:
        """The windows as matrix products, flips across windows as reversed views."""
        for first, matrix in self.windows:
            grid = vector.view(2**first, len(matrix), -1)  # (2^first, 2^w, rest)
            if grid.shape[2] == 1:
                result.view(-1, len(matrix)).addmm_(grid[:, :, 0], matrix)
            else:
                target = result.view(grid.shape)
                target.baddbmm_(matrix.expand(len(grid), -1, -1), grid)
        for element, shape, axes in self.rest:
            result.view(shape).add_(vector.view(shape).flip(axes), alpha=element)

    def _add_general(self, vector: Tensor, result: Tensor) -> None:
        for rows, configs in self._chunks():
            elements = self.H.off_diagonal(configs)  # (B, G)
            there = self._numbers(rows)[:, None] ^ self.masks  # (B, G)
            if self.codes is not None:  # what leads out of the sector has the element 0
                inside = _raised_ones(configs, self.H.flips) == 0
                elements = torch.where(inside, elements, 0.0)
                there = torch.searchsorted(self.codes, there).clamp(max=self.size - 1)
            result[rows] += (elements * vector[there]).sum(dim=1)


class StoredProduct:
    """psi -> H psi for psi (D,) on the CPU, with the sparse matrix; n_up as for `sparse_matrix`."""

    device = torch.device("cpu")

    def __init__(self, H: Hamiltonian, n_up: int | None = None) -> None:
        self.matrix = sparse_matrix(H, n_up)
        self.size = self.matrix.shape[0]
        self.diagonal = torch.from_numpy(self.matrix.diagonal().real.copy())  # (D,)
        self.dtype = torch.complex128 if H.is_complex else torch.float64

    def __call__(self, psi: Tensor) -> Tensor:
        """H psi (D,)."""
        return torch.from_numpy(self.matrix @ psi.numpy())

    def add(self, psi: Tensor, result: Tensor) -> None:
        """result += H psi, both (D,)."""
        result += self(psi)


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
    for start, configs in chunks(H.n_sites, n_up):
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
                first,
                torch.zeros(2**width, 2**width, dtype=elements.dtype, device=elements.device),
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


def memory_estimate(n_sites: int, k: int = 2) -> float:
    """Bytes of memory `ground_state` needs at least for a real Hamiltonian (twice if complex)."""
    return _bytes(2**n_sites, k, False)


def memory_needed(H: Hamiltonian, k: int = 2, n_up: int | None = None) -> float:
    """Bytes of memory `ground_state(H, k, n_up=n_up)` needs at least; ValueError as there."""
    size, _ = _sector_size(H, n_up)
    return _bytes(size, k, H.is_complex)


def _bytes(size: int, k: int, is_complex: bool, vectors: int = lanczos.VECTORS) -> float:
    return float(min(size, LARGEST_SIZE)) * (16 if is_complex else 8) * (k + vectors)


def _matrix_bytes(H: Hamiltonian, size: int) -> int:
    """Of `sparse_matrix` while it is built: value, row and column of each entry, twice."""
    return 2 * size * (len(H.flips) + 1) * (32 if H.is_complex else 24)


def _check_memory(name: str, needed: float, max_memory_gb: float) -> None:
    """Raises ValueError unless it fits."""
    if needed > 1e9 * max_memory_gb:
        raise ValueError(
            f"exact diagonalisation of {name} needs {needed / 1e9:.3g} GB, "
            f"{max_memory_gb:g} GB are allowed"
        )


def basis(n_sites: int, start: int = 0, stop: int | None = None) -> Tensor:
    """(stop - start, N) bool: the configurations numbered start..stop-1, by default all 2^N."""
    return _bits(torch.arange(start, 2**n_sites if stop is None else stop), n_sites)


def _bits(numbers: Tensor, n_sites: int) -> Tensor:
    """(B, N) bool: the configurations with these numbers (B,)."""
    places = torch.arange(n_sites - 1, -1, -1, device=numbers.device)  # (N,)
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
    for start, configs in chunks(H.n_sites):
        rows = torch.arange(start, start + len(configs))  # (B,)
        matrix[rows, rows] = H.diagonal(configs).to(matrix.dtype)
        matrix[rows[:, None], rows[:, None] ^ masks] = H.off_diagonal(configs)  # distinct entries
    return matrix.numpy()


def _flip_numbers(H: Hamiltonian) -> Tensor:
    """(G,) int64: each flip pattern as a number; s xor flip is the xor of their numbers."""
    places = torch.arange(H.n_sites - 1, -1, -1, device=H.flips.device)  # (N,)
    return (H.flips.to(torch.int64) << places).sum(dim=1)


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
        yield start, _bits(codes[start : start + size], n_sites)
