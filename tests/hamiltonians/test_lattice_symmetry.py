"""Point groups and translations: sizes, group laws, and all symmetries of small open lattices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hamiltonians.exact import basis
from hamiltonians.ising import TransverseFieldIsing
from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)
from hamiltonians.rydberg import Rydberg

CUBE = [[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
HEXAGON = [[np.cos(a), np.sin(a)] for a in np.arange(6) * np.pi / 3]

SIZES: list[tuple[Lattice, int, int]] = [
    (Chain(1), 1, 1),
    (Chain(5), 2, 1),
    (Chain(5, periodic=True), 2, 5),
    (Square(4, 4), 8, 1),
    (Square(3, 4), 4, 1),
    (Square(1, 4), 2, 1),
    (Square(4, 4, periodic=True), 8, 16),
    (Square(3, 4, periodic=True), 4, 12),
    (Square(4, 4, periodic=(True, False)), 4, 4),
    (Square(2, 2, periodic=True), 2, 4),  # half turns about a site are translations of a 2-torus
    (Triangular(4, 4), 4, 1),
    (Triangular(3, 4), 2, 1),
    (Triangular(4, 4, periodic=True), 12, 16),
    (Triangular(4, 5, periodic=True), 2, 20),
    (Triangular(4, 3, periodic=(True, False)), 4, 4),
    (Honeycomb(1, 1), 2, 1),
    (Honeycomb(2, 2), 4, 1),
    (Honeycomb(3, 3, periodic=True), 12, 9),
    (Kagome(1, 1), 6, 1),
    (Kagome(3, 3, periodic=True), 12, 9),
    (Positions(CUBE), 48, 1),
    (Positions(HEXAGON), 12, 1),
    (Positions([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]]), 8, 1),
    (Positions([[0, 0], [1, 0.2], [3, 0]]), 1, 1),
]


def rows_as_set(rows: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in rows.tolist()}


def count_distance_preserving(distances: np.ndarray) -> int:
    """All permutations that keep every distance, by backtracking site after site."""

    def extend(image: list[int]) -> int:
        site = len(image)
        if site == len(distances):
            return 1
        return sum(
            extend([*image, target])
            for target in range(len(distances))
            if target not in image
            and np.allclose(distances[site, :site], distances[target, image], atol=1e-9)
        )

    return extend([])


@pytest.mark.parametrize(("lattice", "n_point", "n_shift"), SIZES, ids=str)
def test_group_sizes(lattice: Lattice, n_point: int, n_shift: int) -> None:
    assert lattice.point_group().permutations.shape == (n_point, lattice.n_sites)
    assert lattice.translations().permutations.shape == (n_shift, lattice.n_sites)


@pytest.mark.parametrize("lattice", [lattice for lattice, *_ in SIZES], ids=str)
def test_they_are_groups_that_preserve_distances(lattice: Lattice) -> None:
    distances = lattice.distances()
    for group in (lattice.point_group(), lattice.translations(), lattice.space_group()):
        rows = group.permutations
        elements = rows_as_set(rows)
        assert len(elements) == len(group) and not group.inverted.any()
        assert rows[0].tolist() == list(range(lattice.n_sites))
        for row in rows:
            torch.testing.assert_close(distances[row][:, row], distances)
            assert rows_as_set(row[rows]) == elements  # closed: row after each element


@pytest.mark.parametrize(
    "lattice",
    [lattice for lattice, *_ in SIZES if not any(lattice.periodic)],
    ids=str,
)
def test_open_lattices_have_every_isometry(lattice: Lattice) -> None:
    """In Euclidean space every permutation that keeps the distances comes from an isometry."""
    assert len(lattice.point_group()) == count_distance_preserving(lattice.distances().numpy())


def test_translation_moves_a_cell() -> None:
    lattice = Honeycomb(3, 2, periodic=(True, False))
    shifts = lattice.translations().permutations
    assert shifts.shape == (3, 12)
    assert shifts[1].tolist() == [(site + 4) % 12 for site in range(12)]


def test_turned_and_distorted_positions() -> None:
    """A rotated square keeps its group; one moved corner leaves the mirror through it."""
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]]) @ turn.T * 7.0 + 3.0
    assert len(Positions(square).point_group()) == 8
    corner = np.array([[0, 0], [1, 0], [0, 1], [1.1, 1.1]]) @ turn.T
    assert len(Positions(corner).point_group()) == 2


@pytest.mark.parametrize(
    "lattice",
    [
        Square(2, 3),
        Square(3, 3, (True, False)),
        Triangular(2, 3, True),
        Kagome(1, 2, (False, True)),
    ],
    ids=str,
)
def test_energies_are_invariant(lattice: Lattice) -> None:
    configs = basis(lattice.n_sites)
    for H in (Rydberg(lattice, 3.0), TransverseFieldIsing(lattice)):
        for row, _ in lattice.space_group():
            torch.testing.assert_close(H.diagonal(configs[:, row]), H.diagonal(configs))


def test_large_lattices_are_quick_enough_to_use() -> None:
    """48 x 48, the largest size planned: seconds, not minutes (a hang would show here)."""
    assert Square(48, 48).point_group().permutations.shape == (8, 2304)
