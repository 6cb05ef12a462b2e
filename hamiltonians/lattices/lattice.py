"""Sites in space: positions, distances, bonds and symmetries of the lattices atoms are put on.

Conventions, the same for every lattice here:

- The nearest-neighbour distance is 1 (the lattice constant of every formula of this house);
  `Positions` alone keeps the unit of length its user chose.
- A cell (x, y) sits at x a_1 + y a_2 and holds n_basis sites; the site number is
  site = (x Ly + y) n_basis + b: cell x slowest, then cell y, then the site b of the cell.
- Periodic directions identify r and r + L_k a_k. A distance is the shortest over all images of a
  pair. A pair is one pair: where a short ring (length 2) bonds two sites through two images it is
  listed, and counted in every energy, once. A site never interacts with its own image.

Cells (lattice constant 1):

    Chain, Square   a_1 = (1, 0)       a_2 = (0, 1)           b = (0, 0)
    Triangular      a_1 = (1, 0)       a_2 = (1/2, sqrt3/2)   b = (0, 0)
    Honeycomb       a_1 = (sqrt3, 0)   a_2 = (sqrt3/2, 3/2)   b = (0, 0), (sqrt3/2, 1/2)
    Kagome          a_1 = (2, 0)       a_2 = (1, sqrt3)       b = (0, 0), (1, 0), (1/2, sqrt3/2)
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self, final

import numpy as np
import torch
from torch import Tensor

from hamiltonians.arguments import Arguments
from hamiltonians.lattices import isometries
from hamiltonians.lattices.positions_file import read_positions
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.text_file import check_file

MAX_SITES: Final = 10_000
"""Largest lattice: tables of N^2 numbers (distances, couplings, flips) take 0.8 GB each."""

SHELL_TOLERANCE: Final = 1e-6
"""Distances that differ by less than this fraction belong to one shell of neighbours."""

Periodic = bool | Sequence[bool]
Length = Annotated[int, "1 .. 32768"]
Rows = Sequence[Sequence[float]]


class Lattice(Arguments):
    """N sites in space.

    A class of one's own extends `Grid` (a cell and its basis) or calls this constructor with its
    positions: sites anywhere with open boundaries, the smallest distance 1. Named in the class
    line, `class Lieb(Grid, kind="lieb")`, it can be chosen by that name, with the parameters of its
    constructor as keys.

    Attributes:
        positions: (N, d) float64, in lattice constants.
        shape: (Lx, Ly) cells in each direction ((n, 1) for a chain), None for `Positions`.
        n_basis: sites per cell.
        periodic: one bool per direction.
        cell_vectors: (d, d) float64, row k is a_k; the identity for `Positions`.
        tolerance: relative width of a shell of equal distances.
    """

    kinds: ClassVar[dict[str, type[Lattice]]] = {}
    """Classes that are chosen by name."""

    positions: Tensor
    shape: tuple[int, int] | None = None
    n_basis: int = 1
    periodic: tuple[bool, ...]
    cell_vectors: Tensor
    tolerance: float
    _distances: Tensor | None = None

    def __init_subclass__(cls, *, kind: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            Lattice.kinds[kind] = cls

    def __init__(
        self, positions: Tensor | np.ndarray | Rows, *, tolerance: float = SHELL_TOLERANCE
    ) -> None:
        """Sites at positions (N, 2) or (N, 3) with open boundaries.

        tolerance: relative width of a shell of equal distances. Raises ValueError for an empty
        list, positions that are not finite and sites that coincide.
        """
        name = type(self).__name__
        if not 0 < tolerance < 1:
            raise ValueError(f"{name}: tolerance is {tolerance}; it must be between 0 and 1")
        self.tolerance = tolerance
        self.positions = _checked_positions(name, positions)
        dimension = self.positions.shape[1]
        self.periodic = (False,) * dimension
        self.cell_vectors = torch.eye(dimension, dtype=torch.float64)
        check_sites(name, self.positions, self.distances())

    @property
    def n_sites(self) -> int:
        """N."""
        return self.positions.shape[0]

    def periods(self) -> Tensor:
        """(n_periodic, d) float64: the vectors L_k a_k of the periodic directions."""
        if self.shape is None:
            return self.positions.new_zeros((0, self.positions.shape[1]))
        lengths = torch.tensor(self.shape, dtype=torch.float64)  # (2,)
        return (lengths[:, None] * self.cell_vectors)[torch.tensor(self.periodic)]

    def distances(self) -> Tensor:
        """(N, N) float64: the shortest distance of each pair over its periodic images, 0 for i = j.

        Do not write into it: it is computed once and kept.
        """
        if self._distances is None:
            periods = self.periods()
            self._distances = torch.cat(
                [
                    shortest_length(rows[:, None] - self.positions, periods)  # (512, N)
                    for rows in self.positions.split(512)
                ]
            )
        return self._distances

    def bonds(self, order: int = 1) -> Tensor:
        """(n_bonds, 2) int64: pairs i < j at the order-th smallest distance, each once, sorted.

        Distances equal within `tolerance` form one shell. A lattice of one site has no bonds.
        Raises ValueError where there is no such shell.
        """
        order = positive_integer("bonds", "order", order)
        i, j = torch.triu_indices(self.n_sites, self.n_sites, offset=1)  # (N (N-1) / 2,) each
        lengths = self.distances()[i, j]
        upper = 0.0
        for shell in range(1, order + 1):
            beyond = lengths[lengths > upper]
            if len(beyond) == 0 and self.n_sites > 1:
                raise ValueError(
                    f"bonds: order is {order}, but {self!r} has only {shell - 1} distances"
                )
            lower, upper = upper, float(beyond.min()) * (1 + self.tolerance) if len(beyond) else 0.0
        chosen = (lengths > lower) & (lengths <= upper)
        return torch.stack([i[chosen], j[chosen]], dim=1)

    def sublattice_signs(self) -> Tensor | None:
        """(N,) float64, +1 and -1 so that nearest neighbours differ, site 0 has +1.

        None where no such signs exist (odd loops: triangular, kagome, odd rings) or where they are
        not unique (the graph of nearest neighbours falls apart). For staggered magnetisations.
        """
        signs, n_parts = self._two_colouring()
        return signs if n_parts == 1 else None

    def bipartition(self) -> Tensor | None:
        """(N,) float64, +1 and -1 so that nearest neighbours differ; None if odd loops forbid it.

        Where the graph of nearest neighbours falls apart, the first site of each part has +1.
        """
        return self._two_colouring()[0]

    def _two_colouring(self) -> tuple[Tensor | None, int]:
        """Signs (N,) of `bipartition` and the number of connected parts (None and 0: odd loops)."""
        neighbours: list[list[int]] = [[] for _ in range(self.n_sites)]
        for i, j in self.bonds().tolist():
            neighbours[i].append(j)
            neighbours[j].append(i)
        signs, n_parts = [0.0] * self.n_sites, 0
        for first in range(self.n_sites):
            if signs[first] != 0.0:
                continue
            signs[first], n_parts = 1.0, n_parts + 1
            queue = deque([first])
            while queue:
                site = queue.popleft()
                for other in neighbours[site]:
                    if signs[other] == signs[site]:
                        return None, 0
                    if signs[other] == 0.0:
                        signs[other] = -signs[site]
                        queue.append(other)
        return torch.tensor(signs, dtype=torch.float64), n_parts

    def point_group(self) -> SymmetryGroup:
        """All rotations and reflections; site i goes to row[i]. The identity comes first.

        Isometries about the centre (open directions) and of the torus (periodic ones, about the
        centre of highest symmetry); distinct permutations only.
        """
        return isometries.point_group(self)

    def translations(self) -> SymmetryGroup:
        """All translations by whole cells along the periodic directions; the identity first."""
        return isometries.translations(self)

    def space_group(self) -> SymmetryGroup:
        """All translations times all of the point group, each once; the identity first."""
        return isometries.space_group(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_sites} sites)"


class Grid(Lattice):
    """Lx x Ly cells of a plane with a basis of sites; site = (x Ly + y) n_basis + b.

    Args:
        Lx: unit cells along the first direction.
        Ly: unit cells along the second direction.
        periodic: periodic boundaries: true, false, or [true,false] for each direction.

    Attributes:
        cell: a_1 and a_2, for nearest neighbours at distance 1.
        basis: where the sites of a cell are.

    Raises ValueError for lengths that are no whole numbers >= 1, and for too many sites.
    """

    cell: ClassVar[Rows]
    basis: ClassVar[Rows] = ((0.0, 0.0),)
    shape: tuple[int, int]

    def __init__(self, Lx: Length = 4, Ly: Length = 4, periodic: Periodic = False) -> None:
        name = type(self).__name__
        self.periodic = _directions(name, periodic)
        self.shape = (positive_integer(name, "Lx", Lx), positive_integer(name, "Ly", Ly))
        self.n_basis = len(self.basis)
        n_sites = self.shape[0] * self.shape[1] * self.n_basis
        sizes = f"Lx={_written(self.shape[0])}" + (f" Ly={_written(self.shape[1])}" * (Ly > 1))
        check_site_count(f"{name}: {sizes}", n_sites)
        self.tolerance = SHELL_TOLERANCE
        self.cell_vectors = torch.tensor(self.cell, dtype=torch.float64)  # (2, 2)
        cells = torch.cartesian_prod(*map(torch.arange, self.shape))  # (Lx Ly, 2)
        corners = cells.to(torch.float64) @ self.cell_vectors  # (Lx Ly, 2)
        offsets = torch.tensor(self.basis, dtype=torch.float64)  # (n_basis, 2)
        self.positions = (corners[:, None] + offsets).reshape(n_sites, 2)

    @classmethod
    def check_keys(cls, *, periodic: object, **_: object) -> None:
        """Raises ValueError unless periodic is one bool, or one per direction."""
        _directions(cls.__name__, periodic)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        periodic = f", periodic={self.periodic}" if any(self.periodic) else ""
        return f"{type(self).__name__}({sizes}{periodic})"


@final
class Chain(Grid, kind="chain"):
    """Lx sites on a line, a_1 = (1, 0); a ring if periodic.

    Args:
        Lx: number of sites.
        periodic: periodic boundaries: true or false.
    """

    cell = ((1.0, 0.0), (0.0, 1.0))

    def __init__(self, Lx: Length = 16, periodic: bool = False) -> None:
        if not isinstance(periodic, bool):
            raise ValueError(f"Chain: periodic is {periodic!r}; it must be True or False")
        super().__init__(Lx, 1, (periodic, False))

    def __repr__(self) -> str:
        return f"Chain({self.n_sites}{', periodic=True' if self.periodic[0] else ''})"


@final
class Square(Grid, kind="square"):
    """Lx x Ly sites; site = x Ly + y."""

    cell = ((1.0, 0.0), (0.0, 1.0))


@final
class Triangular(Grid, kind="triangular"):
    """Lx x Ly sites in a rhombus of 60 degrees; site = x Ly + y."""

    cell = ((1.0, 0.0), (0.5, math.sqrt(3) / 2))


@final
class Honeycomb(Grid, kind="honeycomb"):
    """Lx x Ly cells of 2 sites; site = 2 (x Ly + y) + b."""

    cell = ((math.sqrt(3), 0.0), (math.sqrt(3) / 2, 1.5))
    basis = ((0.0, 0.0), (math.sqrt(3) / 2, 0.5))

    def __init__(self, Lx: Length = 2, Ly: Length = 4, periodic: Periodic = False) -> None:
        super().__init__(Lx, Ly, periodic)


@final
class Kagome(Grid, kind="kagome"):
    """Lx x Ly cells of 3 sites; site = 3 (x Ly + y) + b."""

    cell = ((2.0, 0.0), (1.0, math.sqrt(3)))
    basis = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))

    def __init__(self, Lx: Length = 2, Ly: Length = 2, periodic: Periodic = False) -> None:
        super().__init__(Lx, Ly, periodic)


@final
class Positions(Lattice, kind="positions"):
    """Sites wherever you put them, in any unit of length, with open boundaries.

    Positions(positions, tolerance=1e-6): (N, 2) or (N, 3) numbers; a wider tolerance for measured
    ones. Raises ValueError as `Lattice` does.
    """

    @classmethod
    def from_keys(cls, *, file: str) -> Self:
        """As a configuration chooses it.

        Args:
            file: CSV file of positions with the header x,y, one site a line.
        """
        check_file(file, "a CSV file with the header x,y, one site a line")
        return cls.from_csv(file)

    def to_keys(self, folder: Path) -> dict[str, str]:
        """The keys that make these sites again, from a file that is written into the folder."""
        file, names = folder / "positions.csv", "xyz"[: self.positions.shape[1]]
        rows = [",".join(map(repr, row)) for row in self.positions.tolist()]
        file.write_text("\n".join([",".join(names), *rows, ""]), encoding="utf-8")
        return {"file": str(file)}

    @classmethod
    def from_csv(cls, path: str | Path, *, tolerance: float = SHELL_TOLERANCE) -> Self:
        """Read a file with header `x,y` or `x,y,z` and one site per line (positions_file.py).

        Raises ValueError, naming file and line, where that is not what the file holds.
        """
        try:
            return cls(read_positions(path, MAX_SITES), tolerance=tolerance)
        except ValueError as error:
            raise ValueError(f"positions file {path}: {error}") from None

    def __repr__(self) -> str:
        return f"Positions({self.n_sites} sites in {self.positions.shape[1]} dimensions)"


def checked_lattice(name: str, lattice: Any) -> Lattice:
    """The lattice of the Hamiltonian `name`. Raises ValueError for anything else."""
    if not isinstance(lattice, Lattice):
        raise ValueError(f"{name}: lattice is {lattice!r}; it must be a lattice, like Square(4, 4)")
    return lattice


def shortest_length(delta: Tensor, periods: Tensor) -> Tensor:
    """min_n |delta + sum_k n_k periods_k| for delta (..., d) and at most two periods (k, d).

    Exact for skewed cells: the periods are Gauss-reduced first, then delta is wrapped to the
    nearest cell, and of a reduced basis only the 3 x 3 images around it can be nearer.
    """
    if len(periods) == 0:
        return torch.linalg.vector_norm(delta, dim=-1)
    basis = _gauss_reduced(periods)  # (k, d)
    coordinates = delta @ torch.linalg.pinv(basis)  # (..., k)
    wrapped = delta - torch.round(coordinates) @ basis  # (..., d)
    steps = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * len(basis))
    shortest = torch.full(delta.shape[:-1], math.inf, dtype=torch.float64)
    for shift in steps.reshape(-1, len(basis)) @ basis:
        shortest = torch.minimum(shortest, torch.linalg.vector_norm(wrapped + shift, dim=-1))
    return shortest


def _gauss_reduced(periods: Tensor) -> Tensor:
    """The two shortest independent vectors of the lattice spanned by periods (k <= 2, d)."""
    if len(periods) < 2:
        return periods
    short, long = sorted(periods, key=lambda v: float(v @ v))
    while True:
        long = long - torch.round(short @ long / (short @ short)) * short
        if float(long @ long) >= float(short @ short) * (1 - 1e-12):
            return torch.stack([short, long])
        short, long = long, short


def _directions(name: str, periodic: object) -> tuple[bool, bool]:
    """One bool per direction. Raises ValueError for anything but one bool or two."""
    if isinstance(periodic, bool):
        return periodic, periodic
    ends = list(periodic) if isinstance(periodic, Sequence) else []
    if len(ends) != 2 or not all(isinstance(end, bool) for end in ends):
        raise ValueError(
            f"{name}: periodic is {periodic!r}; it must be True, False or one of them per "
            "direction, like [True, False]"
        )
    return ends[0], ends[1]


def positive_integer(owner: str, name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{owner}: {name} is {value!r}; it must be a whole number, 1 or more")
    return number


def check_site_count(name: str, n_sites: int) -> None:
    """Raises ValueError for more sites than tables of N x N numbers allow."""
    if n_sites > MAX_SITES:
        raise ValueError(
            f"{name}: {_written(n_sites)} sites asked for; at most {MAX_SITES} are allowed "
            "(tables of N x N numbers have to fit into memory)"
        )


def _written(number: int) -> str:
    return str(number) if number < 10**15 else f"about 10^{len(str(number)) - 1}"


def _checked_positions(name: str, positions: Tensor | np.ndarray | Rows) -> Tensor:
    """(N, d) float64 on the CPU, finite, N >= 1, d = 2 or 3."""
    try:
        table = torch.as_tensor(np.asarray(positions, dtype=np.float64)).clone()
    except (TypeError, ValueError):
        raise ValueError(f"{name}: every site needs the same number of coordinates") from None
    if table.numel() == 0:
        raise ValueError(f"{name}: no sites given; at least one is needed")
    if table.dim() != 2 or table.shape[1] not in (2, 3):
        raise ValueError(
            f"{name}: given an array of shape {tuple(table.shape)}; it must be (N, 2) or (N, 3)"
        )
    check_site_count(name, len(table))
    bad = ~torch.isfinite(table).all(dim=1)
    if bad.any():
        site = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}: site {site} is at {tuple(table[site].tolist())}; coordinates must be finite"
        )
    return table


def check_sites(name: str, positions: Tensor, distances: Tensor) -> None:
    """Raises ValueError unless positions (N, d) with these distances (N, N) are different sites."""
    if distances.shape != (len(positions), len(positions)):
        raise ValueError(
            f"{name}: distances has the shape {tuple(distances.shape)}, must be (N, N)"
        )
    if not distances.isfinite().all():
        raise ValueError(f"{name}: distances overflow; use another unit of length")
    i, j = torch.triu_indices(len(positions), len(positions), offset=1)
    together = distances[i, j] <= 1e-9 * distances.max()
    if together.any():
        first = int(together.nonzero()[0])
        raise ValueError(
            f"{name}: sites {int(i[first])} and {int(j[first])} coincide at "
            f"{tuple(positions[i[first]].tolist())}; every site needs a place of its own"
        )
