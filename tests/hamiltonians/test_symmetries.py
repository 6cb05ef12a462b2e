"""Groups of a Hamiltonian's symmetries: all of them by the dense matrix, and what few connect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hamiltonians import J1J2, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Honeycomb, Square, Triangular
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from hamiltonians.symmetries import symmetries

SYSTEMS: dict[str, Hamiltonian] = {
    "square": Rydberg(Square(3, 3), V=7.0, delta=1.0),
    "rectangle": Rydberg(Square(2, 4), V=7.0, delta=1.0),
    "one detuning": Rydberg(Square(3, 3), V=7.0, delta=[1.0] * 4 + [2.0] + [1.0] * 4),
    "a corner": Rydberg(Square(3, 3), V=7.0, delta=[2.0] + [1.0] * 8),
    "random": Rydberg(Chain(6), V=7.0, delta=[0.1, 0.7, 0.3, 0.9, 0.2, 0.4]),
    "ring": TransverseFieldIsing(Chain(6, True), J=1.0, h=0.8),
    "alternating ring": TransverseFieldIsing(Chain(6, True), J=1.0, h=[0.8, 0.3] * 3),
    "torus": TransverseFieldIsing(Square(2, 4, True), J=1.0, h=0.8),
    "triangular": TransverseFieldIsing(Triangular(2, 3), J=-1.0, h=0.8),
    "honeycomb": Heisenberg(Honeycomb(1, 4)),
    "frustrated": J1J2(Square(2, 4), J2=0.5, marshall=False),
    "field": Heisenberg(Chain(6), h=0.3),
}


def matrices(group: SymmetryGroup) -> list[Tensor]:
    """Where each element puts the configurations of the basis, (2^N,) each."""
    rows = basis(group.n_sites)
    places = 2 ** torch.arange(group.n_sites - 1, -1, -1)
    return [(image.long() @ places) for image in group.images(rows).unbind(1)]


def is_symmetry(matrix: Tensor, place: Tensor) -> bool:
    return torch.allclose(matrix[place][:, place], matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_symmetries_are_those_of_the_matrix(name: str) -> None:
    """Of the lattice's isometries with and without the spin flip, one by one."""
    hamiltonian = SYSTEMS[name]
    lattice = hamiltonian.lattice
    assert lattice is not None
    matrix = torch.from_numpy(dense_matrix(hamiltonian))
    every = lattice.space_group() * SymmetryGroup.spin_flip(lattice.n_sites)
    expected = [is_symmetry(matrix, place) for place in matrices(every)]
    found = symmetries(hamiltonian, limit=len(every))
    assert [element in found for element in every] == expected
    assert len(found) == sum(expected)


@pytest.mark.parametrize("name", ["square", "ring", "torus", "honeycomb"])
@pytest.mark.parametrize("limit", [1, 2, 4, 7])
def test_a_limit_leaves_a_subgroup(name: str, limit: int) -> None:
    hamiltonian = SYSTEMS[name]
    whole, part = symmetries(hamiltonian, limit=1000), symmetries(hamiltonian, limit=limit)
    assert len(part) <= limit and 2 * len(part) > limit / 2
    assert all(element in whole for element in part)


@pytest.mark.parametrize(
    ("lattice", "pattern"),
    [
        (Square(4, 4), lambda x, y: (x + y) % 2 == 0),
        (Square(4, 4), lambda x, y: (x % 2 == 0) & (y % 2 == 0)),
        (Square(4, 6), lambda x, y: (x + y) % 2 == 0),
        (Chain(8), lambda x, y: x % 2 == 0),
        (Square(4, 4, True), lambda x, y: (x + y) % 2 == 0),
    ],
)
def test_one_symmetry_joins_patterns(lattice: Square, pattern: object) -> None:
    """A half turn or a diagonal mirror would leave a checkerboard as it is."""
    x, y = lattice.positions.round().long().unbind(1)
    config = pattern(x, y)[None]  # type: ignore[operator]
    group = symmetries(Rydberg(lattice, V=7.0, delta=1.0), limit=2)
    assert len(group) == 2
    assert not torch.equal(group.images(config)[0, 0], group.images(config)[0, 1])


def test_the_spin_flip_comes_first_unless_it_is_excluded() -> None:
    ring = SYSTEMS["ring"]
    assert symmetries(ring, limit=2).inverted.tolist() == [False, True]
    assert not symmetries(ring, limit=1000, spin_flip=False).inverted.any()
    assert len(symmetries(ring, limit=1000, spin_flip=False)) == 12


def test_without_a_lattice_there_is_the_spin_flip_alone() -> None:
    assert len(symmetries(PauliSum(3, [(1.0, "Z0 Z1"), (-1.0, "X2")]), limit=9)) == 2
    assert len(symmetries(PauliSum(3, [(1.0, "Z0"), (-1.0, "X2")]), limit=9)) == 1
