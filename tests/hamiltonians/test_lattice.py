"""Lattices: site order, distances against brute force, bonds, two-colouring, bad input."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamiltonians.lattices.lattice import (
    Chain,
    Honeycomb,
    Kagome,
    Lattice,
    Positions,
    Square,
    Triangular,
)

PLANAR = [Square, Triangular, Honeycomb, Kagome]


def distance_by_images(lattice: Lattice, images: int = 12) -> np.ndarray:
    """(N, N) minimum over all shifts by up to `images` periods each way."""
    delta = (lattice.positions[:, None] - lattice.positions[None]).numpy()
    assert lattice.shape is not None
    steps = [range(-images, images + 1) if p else (0,) for p in lattice.periodic]
    best = np.full(delta.shape[:2], np.inf)
    for x, y in itertools.product(*steps):
        n = np.array([x * lattice.shape[0], y * lattice.shape[1]])
        best = np.minimum(best, np.linalg.norm(delta + n @ lattice.cell_vectors.numpy(), axis=-1))
    return best


@given(
    st.sampled_from(PLANAR),
    st.integers(1, 4),
    st.integers(1, 4),
    st.tuples(st.booleans(), st.booleans()),
)
@settings(max_examples=60, deadline=None)
def test_distances_are_the_shortest_over_images(kind, Lx, Ly, periodic) -> None:
    lattice = kind(Lx, Ly, periodic)
    np.testing.assert_allclose(lattice.distances(), distance_by_images(lattice), atol=1e-12)


@pytest.mark.parametrize("kind", [Triangular, Honeycomb, Kagome])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 8)])
def test_distances_on_long_thin_skewed_tori(kind, shape) -> None:
    """Here the nearest image is several periods away in the unreduced cell."""
    lattice = kind(*shape, periodic=True)
    np.testing.assert_allclose(lattice.distances(), distance_by_images(lattice), atol=1e-12)


@pytest.mark.parametrize("kind", PLANAR)
def test_nearest_neighbours_are_at_distance_one(kind) -> None:
    for periodic in (False, True):
        distances = kind(3, 4, periodic).distances().fill_diagonal_(9.0)
        assert distances.min().item() == pytest.approx(1.0, abs=1e-12)


def test_site_order() -> None:
    """site = (x Ly + y) n_basis + b, with Lx != Ly."""
    square = Square(3, 5)
    assert square.positions[2 * 5 + 4].tolist() == [2.0, 4.0]
    kagome = Kagome(2, 3)
    cell = 1 * kagome.cell_vectors[0] + 2 * kagome.cell_vectors[1]
    torch.testing.assert_close(kagome.positions[3 * (1 * 3 + 2)], cell)
    torch.testing.assert_close(
        kagome.positions[3 * (1 * 3 + 2) + 1], cell + torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    assert (kagome.shape, kagome.n_basis, kagome.n_sites) == ((2, 3), 3, 18)
    assert (Chain(7).shape, Chain(7).n_basis) == ((7, 1), 1)
    assert Positions([[0.0, 1.0]]).shape is None


@pytest.mark.parametrize(
    ("lattice", "order", "expected"),
    [
        (Chain(10), 1, 9),
        (Chain(10, periodic=True), 1, 10),
        (Chain(10, periodic=True), 2, 10),
        (Chain(10, periodic=True), 5, 5),  # antipodes: one pair, not two
        (Chain(2, periodic=True), 1, 1),  # both images, listed once
        (Chain(1), 1, 0),
        (Square(3, 4), 1, 17),
        (Square(3, 4), 2, 12),
        (Square(3, 4, periodic=True), 1, 24),
        (Square(3, 4, periodic=(True, False)), 1, 21),
        (Square(3, 4, periodic=(False, True)), 1, 20),
        (Square(2, 2, periodic=True), 1, 4),
        (Square(2, 3, periodic=True), 1, 9),
        (Triangular(3, 4), 1, 23),
        (Triangular(4, 5, periodic=True), 1, 60),
        (Triangular(4, 5, periodic=True), 2, 60),
        (Honeycomb(3, 4, periodic=True), 1, 36),
        (Honeycomb(3, 4, periodic=True), 2, 72),
        (Honeycomb(2, 2), 1, 8),
        (Kagome(3, 4, periodic=True), 1, 72),
        (Kagome(1, 1), 1, 3),
        (Positions([[0, 0], [3, 0], [6.0, 0], [6, 4]]), 1, 2),
        (Positions([[0, 0], [3, 0], [6.0, 0], [6, 4]]), 2, 1),
    ],
    ids=str,
)
def test_number_of_bonds(lattice: Lattice, order: int, expected: int) -> None:
    bonds = lattice.bonds(order)
    assert bonds.shape == (expected, 2) and bonds.dtype == torch.int64
    assert (bonds[:, 0] < bonds[:, 1]).all()
    assert len({tuple(bond) for bond in bonds.tolist()}) == expected


def test_square_bonds_are_the_grid_neighbours() -> None:
    """An independent list by cells, with Lx != Ly, periodic in x only."""
    Lx, Ly = 3, 4
    expected = set()
    for x, y in itertools.product(range(Lx), range(Ly)):
        expected.add(frozenset({x * Ly + y, (x + 1) % Lx * Ly + y}))
        if y + 1 < Ly:
            expected.add(frozenset({x * Ly + y, x * Ly + y + 1}))
    found = {frozenset(bond) for bond in Square(Lx, Ly, (True, False)).bonds().tolist()}
    assert found == expected


def test_measured_positions_need_a_wider_shell() -> None:
    sites = [[0, 0], [1.001, 0], [2.0, 0.0], [3.002, 0]]
    assert len(Positions(sites).bonds()) == 1
    assert len(Positions(sites, tolerance=0.01).bonds()) == 3


@pytest.mark.parametrize(
    ("lattice", "bipartite"),
    [
        (Chain(1), True),
        (Chain(5), True),
        (Chain(5, periodic=True), False),
        (Chain(6, periodic=True), True),
        (Square(3, 4), True),
        (Square(3, 4, periodic=True), False),
        (Square(3, 4, periodic=(False, True)), True),
        (Square(4, 2, periodic=True), True),
        (Triangular(2, 2), False),
        (Honeycomb(3, 3, periodic=True), True),
        (Kagome(2, 2), False),
        (Positions([[0, 0], [1, 0], [5, 0], [6, 0.0]]), False),  # two separate pairs
    ],
    ids=str,
)
def test_sublattice_signs(lattice: Lattice, bipartite: bool) -> None:
    signs = lattice.sublattice_signs()
    if bipartite:
        assert torch.equal(lattice.bipartition(), signs)
    assert (signs is not None) == bipartite
    if signs is not None:
        bonds = lattice.bonds()
        assert signs[0] == 1 and (signs.abs() == 1).all()
        assert (signs[bonds[:, 0]] == -signs[bonds[:, 1]]).all()


def test_bipartition_of_separate_parts() -> None:
    """The first site of each part has +1; an odd loop anywhere forbids it."""
    pairs = [[0, 0], [1, 0], [5, 0], [6, 0.0]]
    assert Positions(pairs).bipartition().tolist() == [1, -1, 1, -1]
    triangle = [[0, 9], [1, 9], [0.5, 9 + 3**0.5 / 2]]
    assert Positions([*pairs, *triangle]).bipartition() is None


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text("x, y\n0,0\n1.5,-2e0\n\n")
    assert Positions.from_csv(path).positions.tolist() == [[0.0, 0.0], [1.5, -2.0]]
    path.write_text("x,y,z\n0,0,1\n")
    assert Positions.from_csv(path).positions.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "header is 'a,b'"),
        ("x,y\n", "no sites"),
        ("x,y\n1,2\n1\n", "line 3 is '1'"),
        ("x,y\n1,two\n", "line 2 is '1,two'"),
        ("x,y\n1,nan\n", "site 0 is at"),
        ("x,y\n0,0\n1,0\n0,0\n", "sites 0 and 2 coincide"),
    ],
)
def test_bad_csv_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "sites.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Positions.from_csv(path)
    assert "sites.csv" in str(error.value) and "\n" not in str(error.value)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Positions.from_csv(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="has the mark of utf-16-le and is not that"):
        Positions.from_csv(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain(0), "Chain: Lx is 0; it must be a whole number, 1 or more"),
        (lambda: Chain(4.0), "Chain: Lx is 4.0"),
        (lambda: Chain(True), "Chain: Lx is True"),
        (lambda: Chain(4, periodic=(True, False)), "Chain: periodic is"),
        (lambda: Square(-1, 4), "Square: Lx is -1"),
        (lambda: Square(4, "3"), "Square: Ly is '3'"),
        (lambda: Square(4, 4, periodic=1), "Square: periodic is 1"),
        (lambda: Kagome(4, 4, periodic=(True,)), r"Kagome: periodic is \(True,\)"),
        (
            lambda: Square(1000, 1000),
            "Square: Lx=1000 Ly=1000: 1000000 sites asked for",
        ),
        (lambda: Chain(10**9), "Chain: Lx=1000000000: 1000000000 sites asked for; at most 10000"),
        (
            lambda: Kagome(10**300, 10**300),
            r"Lx=about 10\^300 .*: about 10\^600 sites",
        ),
        (lambda: Square(2, 2).bonds(0), "bonds: order is 0"),
        (lambda: Square(2, 2).bonds(3), r"order is 3, but Square\(2, 2\) has only 2"),
        (lambda: Positions([]), "no sites given"),
        (lambda: Positions([[1.0], [2.0]]), r"shape \(2, 1\)"),
        (lambda: Positions([[1.0, 2.0], [3.0]]), "same number of coordinates"),
        (lambda: Positions([[0.0, 0.0], [1.0, np.inf]]), r"site 1 is at \(1.0, inf\)"),
        (lambda: Positions([[1.0, 2.0], [1.0, 2.0]]), "sites 0 and 1 coincide"),
        (lambda: Positions([[0.0, 0.0], [1e-200, 0.0]]), "sites 0 and 1 coincide"),
        (lambda: Positions([[0.0, 0.0], [1e200, 0.0]]), "distances overflow"),
        (lambda: Positions([[1.0, 2.0]], tolerance=0), "tolerance is 0"),
    ],
)
def test_bad_lattices_are_refused_in_one_line(build, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lattice", "text"),
    [
        (Chain(4), "Chain(4)"),
        (Chain(4, periodic=True), "Chain(4, periodic=True)"),
        (Square(2, 3, (True, False)), "Square(2, 3, periodic=(True, False))"),
        (Positions([[0.0, 0.0, 0.0]]), "Positions(1 sites in 3 dimensions)"),
    ],
)
def test_repr(lattice: Lattice, text: str) -> None:
    assert repr(lattice) == text
