"""Wavevectors of a lattice: the grid of the structure factor, and those of the ordered phases.

k in inverse units of length of the positions, a_i . b_j = 2 pi delta_ij.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hamiltonians.lattices.lattice import Lattice

MAX_POINTS = {0: 1, 1: 257, 2: 65, 3: 17}
"""Largest grid along each axis for arbitrary positions that extend along so many axes."""


def reciprocal_vectors(lattice: Lattice) -> Tensor:
    """(d, d) float64, row j is b_j."""
    return 2 * math.pi * torch.linalg.inv(lattice.cell_vectors).T


def momentum_grid(lattice: Lattice) -> Tensor:
    """k points (n_1, .., d) float64, an axis for each direction in which the sites extend.

    On a lattice, k = c_1 b_1 + c_2 b_2 with -p/2 <= c < p/2: one period of S(k). p = 1 without a
    basis; with one, S does not repeat with b_j and p is the common denominator of the basis' cell
    coordinates (kagome 2, honeycomb 3). Steps 1 / L, the momenta of the torus, along periodic
    directions and 1 / (2 L) along open ones, between which S(k) is interpolation.
    At arbitrary positions -2 pi / r <= k <= 2 pi / r along each axis, r the median distance to the
    nearest neighbour, in steps of at most pi / (extent of the sites), unless that takes more than
    MAX_POINTS.
    """
    if lattice.shape is None:
        axes = _axes_of_positions(lattice)
        vectors = torch.eye(lattice.positions.shape[1], dtype=torch.float64)
    else:
        axes = _axes_of_cells(lattice)
        vectors = reciprocal_vectors(lattice)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ vectors  # (n_1, .., d)
    sizes = [len(axis) for axis in axes if len(axis) > 1] or [1]
    return points.reshape(*sizes, -1)


def _axes_of_cells(lattice: Lattice) -> list[Tensor]:
    """c_1 and c_2."""
    assert lattice.shape is not None
    basis = lattice.positions[: lattice.n_basis] @ torch.linalg.inv(lattice.cell_vectors)
    axes = []
    for k, length in enumerate(lattice.shape):
        places = basis[:, k]
        period = next(p for p in range(1, 13) if _whole(p * places))
        extends = length > 1 or float(places.max()) > 1e-9
        n = period * length * (1 if lattice.periodic[k] else 2) if extends else 1
        axes.append((torch.arange(n, dtype=torch.float64) - n // 2) * (period / n))
    return axes


def _whole(x: Tensor) -> bool:
    return bool((x - x.round()).abs().max() < 1e-9)


def _axes_of_positions(lattice: Lattice) -> list[Tensor]:
    extents = lattice.positions.amax(0) - lattice.positions.amin(0)  # (d,)
    n_axes = int((extents > 0).sum())
    if n_axes == 0:
        return [extents.new_zeros(1) for _ in extents]
    distances = lattice.distances().clone().fill_diagonal_(torch.inf)
    r = float(distances.amin(1).median())
    axes = []
    for extent in extents.tolist():
        n = min(2 * math.ceil(2 * extent / r) + 1, MAX_POINTS[n_axes])
        end = 2 * math.pi / r if n > 1 else 0.0
        axes.append(torch.linspace(-end, end, n, dtype=torch.float64))
    return axes


def ordering_wavevectors(lattice: Lattice) -> dict[str, Tensor]:
    """Stars of wavevectors (m, d) by the name of the order they belong to.

    One row of sites: z2, z3, z4, period 2, 3 and 4 (Bernien et al., Nature 551, 579 (2017)).
    Square: checkerboard (pi, pi), striated (pi, 0) and (0, pi), star (pi, pi/2) and (pi/2, pi)
    (Samajdar et al., arXiv:1910.09548; Ebadi et al., arXiv:2012.12281). Striated order has a
    (pi, pi) component as well: checkerboard order is that without the others.
    Triangular, honeycomb, kagome: the three M points (stripes) and three equivalent K points
    (sqrt3 x sqrt3) of the zone of the unit cell. Arbitrary positions: none.
    """
    if lattice.shape is None:
        return {}
    a, b = lattice.cell_vectors, reciprocal_vectors(lattice)
    long = [k for k, length in enumerate(lattice.shape) if length > 1]
    if lattice.n_basis == 1 and len(long) < 2:
        return {f"z{p}": b[long] / p for p in (2, 3, 4)} if long else {}
    cosine = float(a[0] @ a[1] / (a[0].norm() * a[1].norm()))
    if abs(cosine) < 1e-9:
        stars = {
            "checkerboard": [(1 / 2, 1 / 2)],
            "striated": [(1 / 2, 0), (0, 1 / 2)],
            "star": [(1 / 2, 1 / 4), (1 / 4, 1 / 2)],
        }
    else:
        stars = {
            "m_point": [(1 / 2, 0), (0, 1 / 2), (1 / 2, 1 / 2)],
            "k_point": [(2 / 3, 1 / 3), (-1 / 3, 1 / 3), (-1 / 3, -2 / 3)],
        }
    return {name: torch.tensor(star, dtype=torch.float64) @ b for name, star in stars.items()}
