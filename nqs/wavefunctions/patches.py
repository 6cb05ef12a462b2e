"""Groups of sites that the network reads and writes as one token.

A patch of p sites has 2^p states; its token is sum_j bit_j 2^j over its sites in the order listed.
The lattice's site order stays outside: `encode` and `decode` permute.

Letters: B configurations, N sites, T patches, P sites in the largest patch, K = 2^P states.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

PATHS = ("raster", "zigzag")
PATCH_RULE = "use '2x2', '4', 'auto' or a list of lists of sites"
NO_GRID = "not a grid of patches; use 'AxB' on a lattice with cells, e.g. 2x2"
MAX_PATCH_SITES = 12  # a softmax over 4096 states


class Geometry(Protocol):
    """What patches need to know of a lattice (`hamiltonians.lattices.lattice.Lattice` has it)."""

    @property
    def n_sites(self) -> int: ...

    @property
    def positions(self) -> Tensor:
        """(N, d) places of the sites."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """Cells along x and y; None for free positions."""

    @property
    def n_basis(self) -> int:
        """Sites in a cell; site = (x Ly + y) n_basis + b."""


class Patches(nn.Module):
    """A partition of the sites 0 .. N-1 into T patches, in the order the network visits them.

    Args:
        groups: the sites of each patch; together every site exactly once.
        positions: (N, d) site positions, for `centres`; patch indices are used without them.
        grid: rows and columns of patches, if these are places of a grid, visited row by row.

    Attributes:
        sites: (T, P) int64, the sites of each patch, padded with N.
        sizes: (T,) int64, sites in each patch.
        centres: (T, d) float64, mean position of each patch.
        grid: as given; rows columns = T.
    """

    sites: Tensor
    sizes: Tensor
    centres: Tensor
    slots: Tensor

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        positions: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        n_patches, largest = len(groups), max((len(group) for group in groups), default=0)
        if largest > MAX_PATCH_SITES:
            raise ValueError(
                f"patch: {largest} sites need a softmax over 2^{largest} states; use at most "
                f"{MAX_PATCH_SITES} sites a patch, or larger ones in sub-patches (model=lptf)"
            )
        n_sites = _check_partition(groups)
        sites = torch.full((n_patches, largest), n_sites)
        for row, group in zip(sites, groups, strict=True):
            row[: len(group)] = torch.tensor(group)
        if positions is None:
            centres = torch.arange(n_patches, dtype=torch.float64)[:, None]
        else:
            centres = torch.stack([positions[list(group)].mean(0) for group in groups])
        self.n_sites, self.n_patches, self.n_states = n_sites, n_patches, 2**largest
        self.register_buffer("sites", sites, persistent=False)
        self.register_buffer("sizes", (sites < n_sites).sum(1), persistent=False)
        self.register_buffer("centres", centres, persistent=False)
        # slots[i]: where site i sits in the flattened (T, P) layout
        slots = torch.argsort(sites.flatten())[:n_sites]
        self.register_buffer("slots", slots, persistent=False)

    @classmethod
    def from_spec(
        cls,
        lattice: Geometry,
        spec: str | int | Sequence[Sequence[int]],
        *,
        path: str = "raster",
    ) -> Self:
        """Patches of a lattice from "AxB", "n", "auto" or an explicit list of site groups.

        "AxB": A x B cells of the lattice (every site of a cell, so a kagome 1x1 has 3 sites),
            smaller at the far edges where A or B does not divide the lattice. On free positions,
            A B neighbours along the path below.
        "n": n consecutive sites in the lattice's order; on free positions along a Hilbert curve.
        "auto": about four sites: 2x2 on one-site cells, 2x1 (honeycomb), 1x1 (kagome), 4 elsewhere.

        path: "raster" visits the patches in the order they are listed, rows of a grid all in one
            direction; "zigzag" visits every second row backwards, so that each step goes to a
            neighbour. Patches are a grid where they are "AxB" cells, or "n" sites that divide a row
            of the lattice or are several rows; patches in one line are a grid of one row.

        Raises ValueError for any other spec, patches larger than the lattice or than 12 sites,
        groups that are not a partition, and a zigzag path over patches that are no grid.
        """
        if path not in PATHS:
            raise ValueError(f"path={path!r} is unknown; allowed: {', '.join(PATHS)}")
        groups = site_groups(lattice, spec)
        if not isinstance(spec, (str, int)):
            if path == "zigzag":
                raise ValueError(f"patch: listed groups are {NO_GRID}")
            return cls(groups, lattice.positions)
        text = auto_spec(lattice) if spec == "auto" else str(spec)
        grid = _grid(lattice, *patch_shape(text))
        if path == "zigzag":
            if grid is None:
                raise ValueError(f"patch={text!r} on this lattice is {NO_GRID}")
            groups = _zigzag(groups, grid)
        return cls(groups, lattice.positions, grid)

    def encode(self, configs: Tensor) -> Tensor:
        """configs (B, N) bool -> tokens (B, T) int64."""
        padded = torch.nn.functional.pad(configs.to(torch.bool), (0, 1))  # site N is always 0
        bits = padded[:, self.sites].to(torch.int64)  # (B, T, P)
        return (bits << torch.arange(bits.shape[2], device=bits.device)).sum(-1)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> configs (B, N) bool; the inverse of encode."""
        places = torch.arange(self.sites.shape[1], device=tokens.device)
        bits = (tokens[:, :, None] >> places) & 1  # (B, T, P)
        return bits.flatten(1)[:, self.slots].to(torch.bool)

    def allowed(self) -> Tensor:
        """(T, K) bool: the states that exist in each patch (2^p of the K columns)."""
        states = torch.arange(self.n_states, device=self.sizes.device)
        return states < (1 << self.sizes)[:, None]

    def state_bits(self) -> Tensor:
        """(K, P) bool: the bits of each patch state."""
        n_places = self.sites.shape[1]
        states = torch.arange(self.n_states, device=self.sites.device)
        return ((states[:, None] >> torch.arange(n_places, device=states.device)) & 1).bool()


def site_groups(lattice: Geometry, spec: str | int | Sequence[Sequence[int]]) -> list[list[int]]:
    """The sites of each patch as `Patches.from_spec` has them, of any size. Raises ValueError."""
    if not isinstance(spec, (str, int)):
        groups = _listed(spec)
        if _check_partition(groups) != lattice.n_sites:
            raise ValueError(f"patch: the groups must hold every site 0..{lattice.n_sites - 1}")
        return groups
    along_x, along_y = patch_shape(auto_spec(lattice) if spec == "auto" else spec)
    if along_y and lattice.shape is not None:
        return _tiles(lattice.shape, lattice.n_basis, along_x, along_y)
    return _runs(lattice, along_x * (along_y or 1))


def patch_shape(spec: str | int, name: str = "patch") -> tuple[int, int | None]:
    """(A, B) of "AxB", (n, None) of "n"; ValueError for any other text."""
    numbers = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(spec))
    if numbers is None:
        raise ValueError(f"{name}={spec!r} is not understood; {PATCH_RULE}")
    return int(numbers[1]), int(numbers[2]) if numbers[2] else None


def _listed(spec: Sequence[Sequence[int]]) -> list[list[int]]:
    """Lists of site numbers; ValueError for anything else."""
    try:
        groups = [[operator.index(site) for site in group] for group in spec]
    except TypeError:
        raise ValueError(f"patch={spec!r} is not understood; {PATCH_RULE}") from None
    return groups


def _check_partition(groups: Sequence[Sequence[int]]) -> int:
    """Number of sites N; ValueError unless groups partition 0..N-1 into patches, none empty."""
    flat = sorted(site for group in groups for site in group)
    if not flat or any(len(group) == 0 for group in groups):
        raise ValueError("patch: every patch needs at least one site")
    if flat != list(range(len(flat))):
        raise ValueError(
            f"patch: {len(flat)} entries do not hold every site 0..{flat[-1]} exactly once"
        )
    return len(flat)


def auto_spec(lattice: Geometry) -> str:
    """What "auto" stands for."""
    if lattice.shape is None or min(lattice.shape) == 1:
        return "4" if lattice.n_sites >= 4 else str(lattice.n_sites)
    return {1: "2x2", 2: "2x1"}.get(lattice.n_basis, "1x1")


def _tiles(shape: tuple[int, int], n_basis: int, along_x: int, along_y: int) -> list[list[int]]:
    """Rectangles of cells, x slowest; site = (x Ly + y) n_basis + b."""
    n_x, n_y = shape
    if along_x > n_x or along_y > n_y:
        raise ValueError(
            f"patch='{along_x}x{along_y}' is larger than the lattice's {n_x}x{n_y} cells"
        )
    return [
        [
            (x * n_y + y) * n_basis + b
            for x in range(x0, min(x0 + along_x, n_x))
            for y in range(y0, min(y0 + along_y, n_y))
            for b in range(n_basis)
        ]
        for x0 in range(0, n_x, along_x)
        for y0 in range(0, n_y, along_y)
    ]


def _grid(lattice: Geometry, along_x: int, along_y: int | None) -> tuple[int, int] | None:
    """Rows and columns of the patches of `_tiles`, or of `_runs` where along_y is None."""
    if lattice.shape is None:
        return None
    n_x, n_y = lattice.shape
    row = n_y * lattice.n_basis  # sites
    if along_y:
        rows, columns = math.ceil(n_x / along_x), math.ceil(n_y / along_y)
    elif row % along_x == 0:
        rows, columns = n_x, row // along_x
    elif along_x % row == 0:
        rows, columns = math.ceil(n_x * row / along_x), 1
    else:
        return None
    return (1, rows) if columns == 1 else (rows, columns)


def _zigzag(groups: list[list[int]], grid: tuple[int, int]) -> list[list[int]]:
    """Every second row of the grid backwards."""
    rows, columns = grid
    lines = [groups[row * columns : (row + 1) * columns] for row in range(rows)]
    return [group for row, line in enumerate(lines) for group in (line[::-1] if row % 2 else line)]


def _runs(lattice: Geometry, length: int) -> list[list[int]]:
    """Consecutive sites along the lattice's order, or along a Hilbert curve on free positions."""
    if length > lattice.n_sites:
        raise ValueError(f"patch={length} is larger than the lattice's {lattice.n_sites} sites")
    order = (
        list(range(lattice.n_sites))
        if lattice.shape is not None
        else hilbert_order(lattice.positions)
    )
    return [order[i : i + length] for i in range(0, len(order), length)]


def hilbert_order(positions: Tensor, n_bits: int = 10) -> list[int]:
    """Sites sorted along a Hilbert curve, so that near indices are near in space.

    positions (N, d) are scaled to a grid of 2^n_bits points a side; J. Skilling, AIP Conf. Proc.
    707, 381 (2004), the transform from axes to the transposed Hilbert index.
    """
    low, span = positions.min(0).values, (positions.max(0).values - positions.min(0).values).max()
    grid = ((positions - low) / span.clamp(min=1e-300) * (2**n_bits - 1)).round().to(torch.int64)
    return sorted(range(len(grid)), key=lambda i: (_hilbert_index(grid[i].tolist(), n_bits), i))


def _hilbert_index(axes: list[int], n_bits: int) -> int:
    x, n_dims = list(axes), len(axes)
    top = 1 << (n_bits - 1)
    q = top
    while q > 1:  # undo the excess rotations
        for i in range(n_dims):
            if x[i] & q:
                x[0] ^= q - 1
            else:
                swap = (x[0] ^ x[i]) & (q - 1)
                x[0], x[i] = x[0] ^ swap, x[i] ^ swap
        q >>= 1
    for i in range(1, n_dims):  # Gray encode
        x[i] ^= x[i - 1]
    flip, q = 0, top
    while q > 1:
        if x[-1] & q:
            flip ^= q - 1
        q >>= 1
    x = [value ^ flip for value in x]
    index = 0
    for bit in range(n_bits - 1, -1, -1):  # interleave, most significant first
        for value in x:
            index = (index << 1) | ((value >> bit) & 1)
    return index
