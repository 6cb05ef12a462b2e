"""To and from NetKet: equal matrices (site order, bit convention) and spectra."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from netket_matrices import dense

from hamiltonians import (
    J1J2,
    XXZ,
    Hamiltonian,
    Heisenberg,
    PauliSum,
    Rydberg,
    TransverseFieldIsing,
    from_netket,
    to_netket,
)
from hamiltonians.exact import basis, dense_matrix
from hamiltonians.lattices.lattice import Chain, Square

N = 4


@cache
def nk() -> Any:
    """NetKet, imported by the process that runs these tests alone: it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside NetKet and JAX at import
        return pytest.importorskip("netket")


def spins() -> Any:
    return nk().hilbert.Spin(s=1 / 2, N=N)


def graph() -> Any:
    return nk().graph.Chain(N, pbc=False)


def X(space: Any, site: int) -> Any:
    return nk().operator.spin.sigmax(space, site)


def Y(space: Any, site: int) -> Any:
    return nk().operator.spin.sigmay(space, site)


def Z(space: Any, site: int) -> Any:
    return nk().operator.spin.sigmaz(space, site)


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:netket"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jax"),
    pytest.mark.filterwarnings("ignore::FutureWarning:netket"),
]

NAMES = (
    "ising",
    "ising jax",
    "pauli",
    "pauli jax",
    "heisenberg",
    "heisenberg sign rule",
    "local sum",
    "matrix on swapped sites",
    "graph",
    "ising plus local",
    "ising plus pauli",
    "product",
    "qubits",
)
"""Of the operators below, which are built where they are needed."""


@cache
def netket_operators() -> dict[str, Any]:
    bond = np.arange(16.0).reshape(4, 4)
    return {
        "ising": nk().operator.Ising(spins(), graph(), h=1.3, J=-2.0),
        "ising jax": nk().operator.IsingJax(spins(), graph(), h=0.3, J=1.0),
        "pauli": nk().operator.PauliStrings(spins(), ["XYZI", "ZZIX", "IIII"], [1.0, 2.0, -3.0]),
        "pauli jax": nk().operator.PauliStringsJax(spins(), ["IIZY", "XIII"], [0.5, 2.0]),
        "heisenberg": nk().operator.Heisenberg(spins(), graph(), J=0.7),
        "heisenberg sign rule": nk().operator.Heisenberg(spins(), graph(), sign_rule=True),
        "local sum": X(spins(), 0) + 2.0 * Z(spins(), 3) @ Y(spins(), 1) + 3.0,
        "matrix on swapped sites": nk().operator.LocalOperator(spins(), bond + bond.T, [3, 1]),
        "graph": nk().operator.GraphOperator(spins(), graph(), bond_ops=[np.diag([1.0, 2, 3, 4])]),
        "ising plus local": nk().operator.Ising(spins(), graph(), h=1.0) + X(spins(), 2),
        "ising plus pauli": nk().operator.Ising(spins(), graph(), h=1.0)
        + nk().operator.PauliStrings(spins(), ["XYZI"], [1.0]),
        "product": X(spins(), 0) @ X(spins(), 1) @ Z(spins(), 3),
        "qubits": nk().operator.PauliStrings(nk().hilbert.Qubit(N), ["XYZI", "ZIII"], [1.0, 0.5]),
    }


def asked_for(H: Hamiltonian) -> np.ndarray:
    """The matrix of H itself, its rotation undone."""
    odd = (basis(H.n_sites) & H.rotated).sum(1) % 2
    U = 1 - 2 * odd.numpy()
    return U[:, None] * dense_matrix(H) * U


@pytest.mark.parametrize("name", NAMES)
def test_from_netket_keeps_the_matrix(name: str) -> None:
    assert list(netket_operators()) == list(NAMES)
    operator = netket_operators()[name]
    np.testing.assert_allclose(asked_for(from_netket(operator)), dense(operator), atol=1e-13)


OURS = [
    Rydberg(Square(2, 3), 7.0, delta=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], Omega=[1, -2, 3, -4, 0, 6]),
    TransverseFieldIsing(Square(2, 3), J=[0.1 * i for i in range(1, 8)], h=[0, 1, -2, 3, 4, 5]),
    XXZ(Square(2, 3), J=[0.1 * i for i in range(1, 8)], Delta=0.3, h=[0, 1, 2, 3, 4, 5.0]),
    J1J2(Chain(6, periodic=True), marshall=True),
    PauliSum(3, [(1.0, "XYZ"), (2.0, "YII"), (-1.0, "")]),
    PauliSum(2, []),
]


@pytest.mark.parametrize("H", OURS, ids=repr)
def test_to_netket_keeps_the_matrix_and_comes_back(H: Hamiltonian) -> None:
    """Rotated or not, the operator is the H that was asked for."""
    operator = to_netket(H)
    np.testing.assert_allclose(asked_for(H), dense(operator), atol=1e-13)
    np.testing.assert_allclose(asked_for(from_netket(operator)), asked_for(H), atol=1e-13)


def test_ising_spectrum_of_netket_with_its_sign_of_j() -> None:
    """Ours at J is NetKet's at -J, on a periodic ring."""
    graph = nk().graph.Chain(6, pbc=True)
    theirs = nk().operator.Ising(nk().hilbert.Spin(s=1 / 2, N=6), graph, h=0.7, J=-1.1)
    ours = TransverseFieldIsing(Chain(6, periodic=True), J=1.1, h=0.7)
    expected = np.linalg.eigvalsh(dense(theirs))
    np.testing.assert_allclose(np.linalg.eigvalsh(dense_matrix(ours)), expected, atol=1e-11)


@pytest.mark.parametrize("marshall", [False, True])
def test_heisenberg_of_netket(marshall: bool) -> None:
    """The same matrix with and without the sign rule (NetKet rotates the xy part as well)."""
    graph = nk().graph.Chain(6, pbc=True)
    spins = nk().hilbert.Spin(s=1 / 2, N=6)
    theirs = nk().operator.Heisenberg(spins, graph, J=0.7, sign_rule=marshall)
    ours = Heisenberg(Chain(6, periodic=True), J=0.7, marshall=marshall)
    np.testing.assert_allclose(dense_matrix(ours), dense(theirs), atol=1e-12)


@pytest.mark.parametrize("marshall", [False, True])
def test_j1j2_of_netket(marshall: bool) -> None:
    spins = nk().hilbert.Spin(s=1 / 2, N=8)
    graph = nk().graph.Chain(8, pbc=True, max_neighbor_order=2)
    theirs = nk().operator.Heisenberg(spins, graph, J=[1.0, 0.4], sign_rule=[marshall, False])
    ours = J1J2(Chain(8, periodic=True), 1.0, 0.4, marshall=marshall)
    np.testing.assert_allclose(dense_matrix(ours), dense(theirs), atol=1e-12)


def test_short_periodic_rings_bond_once_as_in_netket() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NetKet warns that such a direction counts as open
        theirs = nk().graph.Grid([2, 3], pbc=True)
    assert len(theirs.edges()) == len(Square(2, 3, periodic=True).bonds())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: X(spins(), 0) * 1j, "not Hermitian"),
        (lambda: nk().operator.PauliStrings(spins(), ["XYZI"], [1j]), "not Hermitian"),
        (lambda: Z(nk().hilbert.Spin(s=1, N=2), 0), r"must act on Spin\(s=1/2\)"),
        (lambda: Z(nk().hilbert.Spin(s=1 / 2, N=4, total_sz=0), 0), "is constrained"),
        (lambda: 3, "given int"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_netket(build())
    assert "\n" not in str(error.value)


def test_missing_netket_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netket", None)
    with pytest.raises(ImportError, match=r"pip install 'nqs\[netket\]'"):
        to_netket(OURS[0])


def test_hamiltonian_without_pauli_strings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rydberg, "pauli_terms", Hamiltonian.pauli_terms)
    with pytest.raises(NotImplementedError, match="Rydberg does not say its Pauli strings"):
        to_netket(OURS[0])
