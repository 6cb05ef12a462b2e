"""Lowest levels of every family of Hamiltonians equal those of QuSpin and NetKet.

The terms are written out here from the formulas; the package gives positions and bonds only.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from netket_matrices import dense

from hamiltonians import J1J2, XXZ, Hamiltonian, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import diagonalisation, ground_state
from hamiltonians.lattices.lattice import Chain, Kagome, Lattice, Square, Triangular

LEVELS = 4
Term = tuple[float, dict[int, str]]
"""A coefficient and the Pauli matrix of each site."""


def rydberg(lattice: Lattice, V: float, delta: Sequence[float], Omega: float) -> list[Term]:
    """n = (1 - sz) / 2."""
    sites = lattice.positions.numpy()
    terms: list[Term] = []
    for i, detuning in enumerate(delta):
        terms += [(-Omega / 2, {i: "X"}), (detuning / 2, {i: "Z"}), (-detuning / 2, {})]
    for i, j in itertools.combinations(range(len(sites)), 2):
        w = V / np.linalg.norm(sites[i] - sites[j]) ** 6 / 4
        terms += [(w, {}), (-w, {i: "Z"}), (-w, {j: "Z"}), (w, {i: "Z", j: "Z"})]
    return terms


def exchange(bonds: list[list[int]], J: Sequence[float], Delta: float = 1.0) -> list[Term]:
    weights = {"X": 1.0, "Y": 1.0, "Z": Delta}
    pairs = zip(bonds, J, strict=True)
    return [(s * w, {i: p, j: p}) for (i, j), s in pairs for p, w in weights.items()]


def cases() -> list[tuple[Hamiltonian, list[Term]]]:
    kagome, ring, grid = Kagome(1, 2), Chain(8, periodic=True), Square(2, 4)
    delta = [0.3 * i for i in range(6)]
    J = np.linspace(0.2, 1.5, len(grid.bonds())).tolist()
    ising: list[Term] = [(-0.7, {i: "X"}) for i in range(8)]
    ising += [(-s, {i: "Z", j: "Z"}) for (i, j), s in zip(grid.bonds().tolist(), J, strict=True)]
    tilted = Triangular(2, 4)
    near, far = ring.bonds(1).tolist(), ring.bonds(2).tolist()
    field: list[Term] = [(-0.4, {i: "Z"}) for i in range(8)]
    strings: list[Term] = [
        *((0.8, {i: "X", i + 1: "Y", i + 2: "Z"}) for i in range(6)),
        *((0.3 + 0.1 * i, {i: "Z"}) for i in range(8)),
        (0.9, {0: "Y", 4: "X", 7: "Y"}),
    ]
    bonds = tilted.bonds().tolist()
    return [
        (Rydberg(kagome, 7.0, delta=delta, Omega=1.2), rydberg(kagome, 7.0, delta, 1.2)),
        (TransverseFieldIsing(grid, J=J, h=0.7), ising),
        (XXZ(grid, J=J, Delta=0.4, marshall=True), exchange(grid.bonds().tolist(), J, 0.4)),
        (XXZ(ring, 1.0, 1.3, h=0.4), exchange(near, [1.0] * 8, 1.3) + field),
        (Heisenberg(tilted, 0.9), exchange(bonds, [0.9] * len(bonds))),
        (J1J2(ring, 1.0, 0.4), exchange(near, [1.0] * 8) + exchange(far, [0.4] * 8)),
        (PauliSum(8, strings), strings),
    ]


def quspin_levels(n_sites: int, terms: list[Term]) -> np.ndarray:
    pytest.importorskip("quspin")
    from quspin.basis import spin_basis_general
    from quspin.operators import hamiltonian

    static = [
        ["".join(letters.values()).lower() or "I", [[c, *(letters or [0])]]] for c, letters in terms
    ]
    checks = {"check_symm": False, "check_herm": False, "check_pcon": False}
    basis = spin_basis_general(n_sites, pauli=1)
    matrix = hamiltonian(static, [], basis=basis, dtype=np.complex128, **checks)
    return np.linalg.eigvalsh(matrix.toarray())[:LEVELS]


def netket_levels(n_sites: int, terms: list[Term]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside NetKet and JAX
        netket = pytest.importorskip("netket")
        strings = ["".join(sites.get(i, "I") for i in range(n_sites)) for _, sites in terms]
        space = netket.hilbert.Spin(s=1 / 2, N=n_sites)
        weights = [c for c, _ in terms]
        operator = netket.operator.PauliStrings(space, strings, weights, dtype=complex)
        return np.linalg.eigvalsh(dense(operator))[:LEVELS]


def names(value: object) -> str:
    return type(value).__name__ if isinstance(value, Hamiltonian) else ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("levels", "H", "terms"),
    [
        *((quspin_levels, *case) for case in cases()),
        *((netket_levels, *case) for case in cases()[::3]),  # each is compiled anew by JAX
    ],
    ids=names,
)
def test_lowest_levels(
    levels: Callable[[int, list[Term]], np.ndarray],
    H: Hamiltonian,
    terms: list[Term],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagonalisation, "SMALL_SIZE", 16)  # Lanczos, not the dense solver
    energies = ground_state(H, LEVELS).energies
    np.testing.assert_allclose(energies, levels(H.n_sites, terms), atol=1e-8)
