"""Equivalent sites against exact densities: equal where labels are, different elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from minimal import Minimal
from torch import Tensor

from hamiltonians import J1J2, XXZ, Hamiltonian, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.equivalent_sites import equivalent_sites
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Positions, Square, Triangular

RING, UNEVEN = Chain(8, True), [1.0, 1.3, 1.0, 1.0, 0.8, 1.0, 1.1, 1.0]
TORUS = Square(3, 3, True)
IMPURITY = [1.0] * 4 + [1.7] + [1.0] * 4
DIMERS = [1.0 if i % 2 == 0 and j == i + 1 else 0.4 for i, j in RING.bonds().tolist()]
SIGNS = [1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0]


def tilted(hamiltonian: Hamiltonian) -> PauliSum:
    """In a field along z besides: densities that differ from 1/2."""
    field = [(0.37, {i: "Z"}) for i in range(hamiltonian.n_sites)]
    return PauliSum(
        hamiltonian.n_sites, [*hamiltonian.pauli_terms(), *field], lattice=hamiltonian.lattice
    )


CASES: dict[str, tuple[Hamiltonian, int]] = {
    "square": (Rydberg(Square(3, 3), 7.0), 3),
    "oblong": (Rydberg(Square(2, 4), 7.0), 2),
    "wide spectrum": (Rydberg(Square(3, 3), 1e6, delta=IMPURITY), 3),
    "ring": (Rydberg(RING, 3.0), 1),
    "kagome": (Rydberg(Kagome(2, 1, True), 7.0), 2),
    "honeycomb": (Rydberg(Honeycomb(2, 2), 4.0, delta=2.0), 3),
    "triangular": (Rydberg(Triangular(3, 3), 4.0), 4),
    "impurity in a torus": (Rydberg(TORUS, 3.0, delta=IMPURITY), 3),
    "disorder": (Rydberg(RING, 3.0, delta=UNEVEN), 8),
    "signs of the drive": (Rydberg(RING, 3.0, Omega=SIGNS), 1),
    "two drives": (Rydberg(RING, 3.0, Omega=[1.0, 0.5] * 4), 2),
    "pairs of drives": (Rydberg(RING, 3.0, Omega=[1.0, 1.0, 0.5, 0.5] * 2), 2),
    "ising bonds": (tilted(TransverseFieldIsing(RING, J=DIMERS, h=-0.9)), 1),
    "exchange": (XXZ(Chain(7), 1.0, 0.3, h=[0.9] * 7, marshall=True), 4),
    "scattered atoms": (Rydberg(Positions([[0, 0], [1, 0.2], [2.2, 0], [3, 1.4]]), 5.0), 4),
    "rhombus": (Rydberg(Positions([[0, 0], [1, 0], [0.5, 0.9], [1.5, 0.9]]), 5.0), 2),
    "no lattice": (PauliSum(3, [(-1.0, f"X{i}") for i in range(3)] + [(0.3, "Z0")]), 3),
}


def densities(hamiltonian: Hamiltonian) -> np.ndarray:
    state = np.linalg.eigh(dense_matrix(hamiltonian))[1][:, 0]
    return np.abs(state) ** 2 @ basis(hamiltonian.n_sites).to(torch.float64).numpy()


@pytest.mark.parametrize("bare", [False, True], ids=["strings", "elements"])
@pytest.mark.parametrize("case", CASES)
def test_densities_are_equal_where_labels_are(case: str, bare: bool) -> None:
    hamiltonian, n_orbits = CASES[case]
    subject = Minimal(hamiltonian) if bare else hamiltonian
    labels = equivalent_sites(subject, hamiltonian.lattice)
    assert labels.dtype == torch.int64 and labels.shape == (hamiltonian.n_sites,)
    first = [labels.tolist().index(label) for label in range(int(labels.max()) + 1)]
    assert first == sorted(first)  # numbered by first sites
    assert len(first) == n_orbits
    density = densities(hamiltonian)
    same = (labels[:, None] == labels).numpy()
    gaps = np.abs(density[:, None] - density)
    assert gaps[same].max() < 1e-9
    if case not in ("ising bonds", "no lattice", "wide spectrum"):
        assert gaps[~same].min(initial=1.0) > 1e-6  # generically different
    if case == "no lattice":
        assert gaps[0, 1] > 0.05


def brute_force(hamiltonian: Hamiltonian) -> list[int]:
    """Orbits under every element of the space group that leaves the matrix as it is."""
    assert hamiltonian.lattice is not None
    matrix, configs = dense_matrix(hamiltonian), basis(hamiltonian.n_sites)
    label = list(range(hamiltonian.n_sites))
    for row in hamiltonian.lattice.space_group().permutations:
        moved = numbers(configs[:, row])
        if np.allclose(matrix[np.ix_(moved, moved)], matrix, rtol=0, atol=1e-10):
            for i, j in enumerate(row.tolist()):
                label = [label[i] if k == label[j] else k for k in label]
    order = list(dict.fromkeys(label))
    return [order.index(k) for k in label]


def numbers(configs: Tensor) -> np.ndarray:
    places = torch.arange(configs.shape[1] - 1, -1, -1)
    return (configs.to(torch.int64) << places).sum(1).numpy()


@pytest.mark.parametrize("seed", range(12))
def test_orbits_are_those_of_all_symmetries_of_the_matrix(seed: int) -> None:
    """Couplings repeated at random: some symmetries hold, others do not."""
    random = np.random.default_rng(seed)
    lattice = [RING, TORUS, Square(2, 4, (True, False)), Kagome(1, 2, True)][seed % 4]
    pattern = random.choice([1.0, 0.6], size=lattice.n_sites)
    if seed % 3 == 0:
        pattern = np.resize(pattern[: lattice.n_sites // 2], lattice.n_sites)  # repeats
    n_bonds = len(lattice.bonds())
    for hamiltonian in (
        Rydberg(lattice, 2.0, delta=pattern.tolist()),
        Rydberg(lattice, 2.0, Omega=(pattern * random.choice([1, -1], len(pattern))).tolist()),
        TransverseFieldIsing(lattice, J=np.resize([1.0, 0.5], n_bonds).tolist(), h=pattern),
        XXZ(lattice, h=pattern.tolist(), marshall="auto"),
        J1J2(lattice, 1.0, 0.4) if lattice is RING else Heisenberg(lattice),
    ):
        expected = brute_force(hamiltonian)
        assert equivalent_sites(hamiltonian).tolist() == expected, hamiltonian


def test_large_arrays_are_quick_enough_to_use() -> None:
    """2304 sites, uniform and with an impurity: seconds (a hang would show here)."""
    assert not equivalent_sites(Rydberg(Square(48, 48, True), 7.0)).any()
    assert len(equivalent_sites(Rydberg(Square(48, 48), 7.0)).unique()) == 24 * 25 // 2
    delta = torch.ones(2304)
    delta[5] = 2.0
    labels = equivalent_sites(XXZ(Square(48, 48, True), h=delta))
    assert (labels == labels[5]).sum() == 1
