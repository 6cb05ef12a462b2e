"""Products (H psi)(s) = diagonal(s) psi(s) + sum_g off_diagonal_g(s) psi(s xor flips_g).

Where the off-diagonal elements do not depend on s (Rydberg atoms, transverse-field Ising), flips
inside a window of neighbouring sites are summed into one small dense matrix, so a product is a few
matrix multiplications instead of one pass over memory per flip, and the matrix is never stored.
Where they do depend on s (exchange, most Pauli sums) it is stored as a sparse one if it fits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hamiltonians.exact.configurations import (
    CHUNK,
    bits,
    flip_numbers,
    raised_ones,
    sector_basis,
    sector_size,
)
from hamiltonians.exact.matrix import matrix_bytes, sparse_matrix
from hamiltonians.hamiltonian import Hamiltonian

WINDOW = 4
"""Sites of one window of the constant-flip product: matrices of 16 x 16."""

Window = tuple[int, Tensor]
Reversal = tuple[float, tuple[int, ...], tuple[int, ...]]


def product_of(
    H: Hamiltonian, n_up: int | None, device: torch.device | str, spare_bytes: float
) -> Product | StoredProduct:
    """With the matrix where that is faster, on the CPU, and fits."""
    if torch.device(device).type == "cpu" and H.constant_off_diagonal is None:
        size, _ = sector_size(H, n_up)
        if matrix_bytes(H, size) <= spare_bytes:
            return StoredProduct(H, n_up)
    return Product(H, n_up, device)


class Product:
    """psi -> H psi for psi (D,) on `device`, without the matrix; n_up as for `sparse_matrix`.

    Elements that depend on the configuration are computed anew at every product.
    """

    def __init__(
        self, H: Hamiltonian, n_up: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.H = H = H.to(self.device)
        self.size, _ = sector_size(H, n_up)
        self.dtype = torch.complex128 if H.is_complex else torch.float64
        self.codes = None if n_up is None else sector_basis(H.n_sites, n_up).to(self.device)
        self.diagonal = torch.empty(self.size, dtype=torch.float64, device=self.device)
        for rows, configs in self._chunks():
            self.diagonal[rows] = H.diagonal(configs)
        self.constant = H.constant_off_diagonal if n_up is None else None
        if self.constant is not None:
            self.windows, self.rest = _windowed_flips(H, self.constant)
            return
        self.masks = flip_numbers(H)  # (G,)

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
            yield rows, bits(self._numbers(rows), self.H.n_sites)

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
                inside = raised_ones(configs, self.H.flips) == 0
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


def _windowed_flips(H: Hamiltonian, elements: Tensor) -> tuple[list[Window], list[Reversal]]:
    """Constant flips as (first site, symmetric matrix) of each window, and those that fit in none.

    A run of neighbouring flipped sites reverses its axis of 2^run states; such a flip becomes
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
