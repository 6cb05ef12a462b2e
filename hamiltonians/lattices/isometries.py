"""Symmetries of a lattice as permutations of its sites.

An isometry r -> c + M (r - c) is a symmetry if it carries the sites onto the sites and, where the
lattice is periodic, the torus onto itself; then it preserves every distance. Its permutation says
that site i goes to row[i]. With s' = s[:, row], H(s') = H(s) for uniform couplings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from hamiltonians.lattices.symmetry_group import SymmetryGroup

if TYPE_CHECKING:
    from hamiltonians.lattices.lattice import Lattice

Array = NDArray[np.float64]


def point_group(lattice: Lattice) -> SymmetryGroup:
    """The distinct permutations by isometries about one centre, in ascending order.

    Open lattices: about the centre of mass, which every isometry of a finite set keeps. Periodic
    ones: about the point of a cell with the most isometries.
    """
    rows = {tuple(row.tolist()) for _, row in _isometry_rows(lattice)}  # a small torus repeats some
    return SymmetryGroup(torch.tensor(sorted(rows), dtype=torch.int64))


def translations(lattice: Lattice) -> SymmetryGroup:
    """Shifts by whole cells along the periodic directions."""
    n_x, n_y = translation_steps(lattice)
    rows = [translation(lattice, x, y) for x in range(n_x) for y in range(n_y)]
    return SymmetryGroup(torch.stack(rows))


def translation_steps(lattice: Lattice) -> tuple[int, int]:
    """Different shifts along the two directions: cells where periodic, else 1."""
    if lattice.shape is None:
        return 1, 1
    (n_x, n_y), (along_x, along_y) = lattice.shape, lattice.periodic
    return n_x if along_x else 1, n_y if along_y else 1


def translation(lattice: Lattice, x: int, y: int) -> Tensor:
    """(N,) where each site goes when all move by (x, y) cells."""
    sites = torch.arange(lattice.n_sites)
    if lattice.shape is None:
        return sites
    return sites.reshape(*lattice.shape, lattice.n_basis).roll((-x, -y), (0, 1)).flatten()


def space_group(lattice: Lattice) -> SymmetryGroup:
    """Every translation after every element of the point group.

    A group, since isometries carry translations by cells into translations by cells.
    """
    return translations(lattice) * point_group(lattice)


def named_symmetries(lattice: Lattice) -> dict[str, Tensor]:
    """Symmetries (N,) by the names people give them, without those that move nothing.

        shift_x, shift_y    by one cell along a periodic direction
        rotation90          by 90 degrees about the centre of `point_group`
        mirror45            at the line through that centre at 45 degrees to the x axis

    Rotations by less than a full turn and all mirrors that the lattice has, in the order of their
    angles. Only shifts in three dimensions, whose isometries are not named by an angle.
    """
    n_x, n_y = translation_steps(lattice)
    rows = {
        "shift_x": translation(lattice, 1 % n_x, 0),
        "shift_y": translation(lattice, 0, 1 % n_y),
    }
    if lattice.positions.shape[1] == 2:
        turns = [(*_kind_and_angle(m), torch.from_numpy(row)) for m, row in _isometry_rows(lattice)]
        for kind, angle, row in sorted(turns, key=lambda turn: (turn[0] != "rotation", turn[1])):
            rows[f"{kind}{angle:g}"] = row
    sites = torch.arange(lattice.n_sites)
    return {name: row for name, row in rows.items() if not torch.equal(row, sites)}


def _isometry_rows(lattice: Lattice) -> list[tuple[Array, NDArray[np.int64]]]:
    """Matrix (d, d) and permutation (N,) of each isometry about the centre that has the most."""
    matcher = _SiteMatcher(lattice)
    matrices = [m for m in _candidate_matrices(lattice) if matcher.keeps_torus(m)]
    best: list[tuple[Array, NDArray[np.int64]]] = []
    for centre in _candidate_centres(lattice):
        pairs = [(m, matcher.permutation(m, centre)) for m in matrices]
        matches = [(m, row) for m, row in pairs if row is not None]
        if len(matches) > len(best):
            best = matches
        if len(best) == len(matrices):
            break
    return best


def _kind_and_angle(matrix: Array) -> tuple[str, float]:
    """Of a rotation, its angle in degrees; of a mirror, that of its line.

    Where all sites lie on a line matrix acts on that line alone: it is 0, or a rotation by 180.
    """
    turn = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    determinant = float(np.linalg.det(matrix))
    if abs(determinant) < 0.5:
        return "rotation", 0.0 if np.trace(matrix) > 0 else 180.0
    if determinant > 0:
        return "rotation", round(turn % 360, 3) % 360
    return "mirror", round(turn / 2 % 180, 3) % 180


class _SiteMatcher:
    """Finds which site lies where an isometry carries each site (None if one lands in between)."""

    def __init__(self, lattice: Lattice) -> None:
        self.positions = lattice.positions.numpy()  # (N, d)
        self.periods = lattice.periods().numpy()  # (k, d)
        self.to_cells = np.linalg.inv(lattice.cell_vectors.numpy())  # (d, d)
        self.box = np.zeros(self.positions.shape[1])  # 0 where open
        if lattice.shape is not None:
            self.box = np.where(lattice.periodic, lattice.shape, 0.0)
        self.tree = cKDTree(self._wrapped(self.positions), boxsize=self.box)
        shortest = 1.0 if lattice.shape is not None else _shortest_distance(lattice)
        self.reach = max(10 * lattice.tolerance, 1e-6) * shortest

    def keeps_torus(self, matrix: Array) -> bool:
        """Whether the matrix carries every period into an integer combination of the periods."""
        moved = self.periods @ matrix.T  # (k, d)
        combination = np.round(moved @ np.linalg.pinv(self.periods))  # (k, k)
        return np.allclose(combination @ self.periods, moved, atol=1e-6)

    def permutation(self, matrix: Array, centre: Array) -> NDArray[np.int64] | None:
        """(N,) where each site goes under r -> centre + matrix (r - centre), or None."""
        moved = centre + (self.positions - centre) @ matrix.T  # (N, d)
        distance, site = self.tree.query(self._wrapped(moved))
        if distance.max() > self.reach or len(np.unique(site)) < len(site):
            return None
        return np.asarray(site, dtype=np.int64)

    def _wrapped(self, positions: Array) -> Array:
        """Coordinates in cells, folded into [0, L) along the periodic directions."""
        cells = np.round(positions @ self.to_cells, 9)
        return np.where(self.box > 0, np.mod(cells, np.where(self.box > 0, self.box, 1.0)), cells)


def _shortest_distance(lattice: Lattice) -> float:
    distances = lattice.distances()
    return float(distances[distances > 0].min()) if lattice.n_sites > 1 else 1.0


def _candidate_centres(lattice: Lattice) -> Iterator[Array]:
    """The centre of mass, shifted along the periodic directions by fractions of a cell.

    Rotation centres and mirrors of the plane groups used here lie at twelfths of a cell from it.
    """
    middle = lattice.positions.numpy().mean(axis=0)
    if not any(lattice.periodic):
        yield middle
        return
    cells = lattice.cell_vectors.numpy()
    if all(lattice.periodic):
        middle = np.zeros(2)
    ranges = [range(12) if periodic else range(1) for periodic in lattice.periodic]
    for x in ranges[0]:
        for y in ranges[1]:
            yield middle + (x * cells[0] + y * cells[1]) / 12


def _candidate_matrices(lattice: Lattice) -> list[Array]:
    """The orthogonal matrices worth trying: finitely many, containing every point symmetry."""
    if lattice.shape is None:
        positions = lattice.positions.numpy()
        reach = 10 * lattice.tolerance * _shortest_distance(lattice)
        return list(_isometries(positions - positions.mean(axis=0), reach))
    matrices = []
    for angle in (0, 60, 90, 120, 180, 240, 270, 300):  # of the square and of the hexagon
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrices.append(np.array([[cos, -sin], [sin, cos]]))
        matrices.append(np.array([[cos, sin], [sin, -cos]]))  # mirror line at half the angle
    return matrices


def _isometries(points: Array, reach: float) -> Iterator[Array]:
    """Orthogonal matrices (on the span of points (N, d), centred) that may permute the points.

    A frame of r <= 3 far-out points fixes an isometry; the images of the frame must have its
    lengths and inner products within what displacements by `reach` allow.
    """
    _, sizes, axes = np.linalg.svd(points, full_matrices=False)
    span = axes[sizes > max(reach, 1e-12)]  # (r, d)
    if len(span) == 0:  # a single site
        yield np.eye(points.shape[1])
        return
    inside = points @ span.T  # (N, r)
    frame = scipy.linalg.qr(inside.T, mode="r", pivoting=True)[1][: len(span)]  # (r,) sites
    slack = 4 * reach * float(np.linalg.norm(inside, axis=1).max())
    for images in _frames(inside, frame.tolist(), slack):
        left, _, right = np.linalg.svd(np.linalg.solve(inside[frame], inside[images]).T)
        yield span.T @ (left @ right) @ span  # left @ right: the nearest orthogonal matrix


def _frames(points: Array, frame: list[int], slack: float) -> list[list[int]]:
    """Lists of sites with the inner products of the frame, within slack."""
    norms = (points**2).sum(axis=1)  # (N,)
    lists: list[list[int]] = [[]]
    for depth, site in enumerate(frame):
        longer = []
        for images in lists:
            fits = np.abs(norms - norms[site]) <= slack  # (N,)
            for image, earlier in zip(images, frame[:depth], strict=True):
                fits &= np.abs(points @ points[image] - points[site] @ points[earlier]) <= slack
            longer += [[*images, int(image)] for image in np.flatnonzero(fits)]
        lists = longer
    return lists
